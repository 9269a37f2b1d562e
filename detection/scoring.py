"""Evaluate and compare from Python: ``evaluate("runs/first", "my_data").box["AP"]``."""

from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from detection.documents import read_json

if TYPE_CHECKING:
    from backbones.classifiers import Classifier
    from detection.models.detector import Detector


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation, as its folder holds it."""

    folder: Path
    """With report.html, report.json, the results and the CSV files; :func:`compare` takes it."""
    content: dict[str, Any]
    """All of report.json: ``about``, and ``bbox`` and ``segm`` with numbers, classes, images and errors; for a
    classifier, ``about`` and ``classification``."""

    @property
    def box(self) -> dict[str, float]:
        """AP, AP50 and the other numbers of boxes, as fractions; empty if boxes were not scored."""
        return self._numbers("bbox")

    @property
    def mask(self) -> dict[str, float]:
        """The same of masks."""
        return self._numbers("segm")

    @property
    def classification(self) -> dict[str, float]:
        """``top1`` and the other numbers of a classifier, as fractions; empty for a detector."""
        return self._numbers("classification")

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class: of masks if they were scored, else of boxes, or of images."""
        kind = next(kind for kind in ("segm", "bbox", "classification") if kind in self.content)
        rows: list[dict[str, Any]] = self.content[kind]["classes"]
        return rows

    @property
    def report_path(self) -> Path:
        """The page to open in a browser."""
        return self.folder / "report.html"

    def _numbers(self, kind: str) -> dict[str, float]:
        found = self.content.get(kind, {}).get("numbers", {})
        return {name: number["value"] for name, number in found.items()}


def evaluate(
    model: "Detector | Classifier | str | Path",
    data: str | Path | None = None,
    *,
    split: str = "val",
    output: str | Path = "evaluation",
    **options: Any,
) -> Evaluation:
    """Score a model, or result files, and write a report, as ``rcnn evaluate`` does.

    Args:
        model: a detector, a run's folder, a checkpoint, published weights, a file of results (.json), or the folder or
            file of a classifier.
        data: a data set of any known form; without it, give ``annotations`` and ``images``.
        split: which images of the data set.
        output: folder for the report.
        options: others of ``rcnn evaluate`` with underscores, as ``batch=8`` or ``resamplings=0``.

    Raises:
        ValueError: the model, the data or an option cannot be used, in one line.

    Example:
        >>> found = evaluate("runs/first", "my_data")  # doctest: +SKIP
        >>> found.box["AP"], found.report_path  # doctest: +SKIP
    """
    from backbones.classifiers import Classifier
    from detection.commands.image_scores import evaluate_images
    from detection.device import inference_device
    from detection.export.loading import Exported
    from detection.inference.api import find_classifier
    from detection.models.detector import Detector
    from detection.report.inputs import annotations_and_images
    from detection.report.options import EvaluateOptions
    from detection.report.scoring import evaluate as score

    unknown = sorted(options.keys() - {field.name for field in fields(EvaluateOptions)})
    if unknown:
        raise ValueError(f"evaluate: no option {unknown[0]}; `rcnn evaluate --help` lists them")
    found = model if isinstance(model, Classifier) else None
    if isinstance(model, str | Path) and not str(model).endswith(".json"):
        device, trusted = inference_device(options.get("device", "auto")), options.get("trust_code", False)
        found = find_classifier(model, trusted, device)
    if found is not None:
        what = [found.config.name if isinstance(model, Classifier) else str(model)]
        given = EvaluateOptions(
            what, Path(), None, Path(output), data=None if data is None else str(data), split=split, **options
        )
        evaluate_images(found, given)
        return Evaluation(given.output, read_json(given.output / "report.json"))
    places = (options.pop(name, None) for name in ("annotations", "images"))
    annotations, images = annotations_and_images(data, split, *(None if one is None else Path(one) for one in places))
    given = EvaluateOptions(
        [str(model)],
        annotations,
        images,
        Path(output),
        data=None if data is None else str(data),
        split=split,
        **options,
    )
    with TemporaryDirectory() as folder:
        if isinstance(model, Exported):
            given.what = [str(model.path)]
        elif isinstance(model, Detector):
            given.what = [str(model.save(Path(folder) / "model.ckpt"))]
        score(given)
    return Evaluation(given.output, read_json(given.output / "report.json"))


def compare(
    first: Evaluation | str | Path, second: Evaluation | str | Path, resamplings: int = 1000
) -> dict[str, list[Any]]:
    """Compare two evaluations of the same images, as ``rcnn compare`` does.

    Args:
        first: an evaluation, or the folder of one.
        second: another one.
        resamplings: bootstrap samples for the 95 % intervals.

    Returns:
        Differences of all numbers and of each class's AP, by kind, as ``bbox/numbers``; each has ``name``, ``first``,
        ``second``, ``difference``, ``low``, ``high`` and ``verdict``.

    Raises:
        ValueError: they cannot be compared, and why.
    """
    from detection.report.comparison import compare_evaluations

    folders = [one.folder if isinstance(one, Evaluation) else Path(one) for one in (first, second)]
    return compare_evaluations(folders[0], folders[1], resamplings=resamplings).differences

"""Write a classifier to a folder that runs without PyTorch, and compare both on images.

B images, S side of the square that the network sees, K classes.  Input: ``images`` (B, 3, S, S) uint8, RGB, prepared as
``model.json`` says; B is free. Outputs: ``logits`` (B, K), and ``scores`` (B, K), their softmax or, for several classes
per image, their sigmoid.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import backbones.fast
from backbones.classifiers import Classifier
from detection.classifier_description import describe_classifier
from detection.data.labelled_dataset import centre_square
from detection.export import torch_file
from detection.export.card import facts
from detection.export.exported_classifier import ExportedClassifier
from detection.export.images import given_images
from detection.export.onnx_file import converted
from detection.export.runtime import RunError, open_session
from detection.export.tracing import MOST_IMAGES, traced
from detection.export.writing import check_folder, origin, write_as, write_folder
from detection.foreign import shown
from detection.shapes import draw_scene
from detection.wording import plural

TOLERANCE = 1e-4
"""Largest difference of a logit that passes, as a fraction of the largest logit of the image, or of 1 if that is
smaller."""
PROGRAM = Path(__file__).with_name("standalone_classifier.py")
"""The program of the folder."""


@dataclass(frozen=True)
class ClassifierGate:
    """The result of a comparison of logits."""

    images: tuple[tuple[str, float, float], ...]
    """Name of each image, its largest difference of a logit, and its largest logit."""
    engine: str
    tolerance: float = TOLERANCE
    failure: str | None = None
    """Why the engine could not compute the file; None if it could."""

    @property
    def passed(self) -> bool:
        """Whether all differences are within the tolerance."""
        within = (difference <= self.tolerance * max(1, largest) for _, difference, largest in self.images)
        return self.failure is None and bool(self.images) and all(within)

    def line(self) -> str:
        """Return the result as a line of text."""
        if self.failure is not None:
            return f"FAILED: {self.failure}"
        most = max(difference for _, difference, _ in self.images)
        largest = max(logit for _, _, logit in self.images)
        found = f"logits of {plural(len(self.images), 'image')} within {most:.1e}, the largest is {largest:.1f}"
        return f"{'passed' if self.passed else 'FAILED'}: {found}"

    def summary(self) -> dict[str, Any]:
        """Return plain values, for the metadata of the file."""
        return {"passed": self.passed, **asdict(self)}


class _Outputs(nn.Module):
    """The network from images to logits and scores."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images)
        return logits, logits.sigmoid() if self.model.multi_label else logits.softmax(dim=1)


def export_classifier(
    model: Classifier, folder: str | Path, format: str = "onnx", images: Sequence[str] = ()
) -> tuple[Path, ClassifierGate]:
    """Write a classifier to a folder that runs without PyTorch, and compare the logits of both on images.

    The folder has the model (``model.onnx``, or ``model.xml`` and ``model.bin``) and ``model.json``: classes,
    preprocessing, checksums. ``card.md`` has the comparison, and ``predict.py`` runs the model. The function replaces
    the files of an earlier export.

    Args:
        model: the classifier.
        folder: it is created.
        format: ``onnx``, ``openvino`` or ``torch``.
        images: files, folders and patterns to compare on; synthetic images if empty.

    Returns:
        The exported file, and the comparison. A file that did not pass is written, but ``load_model`` rejects it.

    Raises:
        ValueError: the classifier cannot be exported, or an image cannot be read.
        ModuleNotFoundError: a package of the extra is not installed.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    check_folder(folder, format)
    named = _prepared(given_images(images) if images else _synthetic(), model)
    settings = {"rcnn": describe_classifier(model), "export": origin(model, format)}
    plain = backbones.fast.revert(copy.deepcopy(model)).cpu().eval()
    programs = {} if format == "torch" else {"predict.py": PROGRAM}
    return write_folder(
        folder,
        settings,
        lambda file: _write_model(plain, file, format),
        lambda file: compare(plain, file, named),
        card,
        programs,
    )


@torch.inference_mode()
def compare(model: Classifier, file: Path, images: Sequence[tuple[str, Tensor]]) -> ClassifierGate:
    """Compare the logits of a classifier and of its export.

    Args:
        model: the classifier.
        file: its export.
        images: name and pixels (3, S, S) uint8 of each; all of them are one batch of the export.
    """
    session = open_session(file, torch.get_num_threads())
    batch = torch.stack([pixels for _, pixels in images])
    try:
        found = ExportedClassifier(session, file)(batch)
    except RunError as error:
        return ClassifierGate((), session.engine, failure=str(error))
    logits = torch.cat([model(one[None]) for one in batch])
    differences = (found - logits).abs().amax(dim=1)
    rows = zip(images, differences.tolist(), logits.abs().amax(dim=1).tolist(), strict=True)
    return ClassifierGate(tuple((name, difference, largest) for (name, _), difference, largest in rows), session.engine)


def card(settings: Mapping[str, Any], size: int) -> str:
    """Return the card of an export as Markdown: the comparison, classes, weights and versions.

    Args:
        settings: content of ``model.json``.
        size: bytes of the model's files.
    """
    about, info, gate = settings["export"], settings["rcnn"], settings["gate"]
    rows = [
        f"| {shown(name).replace('|', '/')} | {difference:.1e} | {largest:.2f} |"
        for name, difference, largest in gate["images"]
    ]
    lines = [
        f"# {about['format']} export",
        "",
        f"**Parity gate: {'passed' if gate['passed'] else 'FAILED'}** ({gate['engine']} against PyTorch).",
        "",
        *([gate["failure"], ""] if gate["failure"] else []),
        "| image | largest difference of a logit | largest logit |",
        "| --- | ---: | ---: |",
        *rows,
        "",
        f"Tolerance: {gate['tolerance']:g} of the largest logit of an image, or of 1 if that is smaller.",
        "",
        *facts(settings, info["names"] or [str(k) for k in range(info["num_classes"])], size),
        "Run it without PyTorch: `python predict.py image.jpg`.",
        "",
    ]
    return "\n".join(lines)


def _write_model(model: Classifier, path: Path, format: str) -> None:
    """Write the model's file, without metadata."""
    side = model.preprocessing.crop
    images = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    free = {0: torch.export.Dim("batch", min=1, max=MOST_IMAGES)}
    program = traced(_Outputs(model), (images,), (free,), "this classifier cannot be traced")

    def write_onnx(file: Path) -> None:
        file.write_bytes(converted(program, ["images"], ["logits", "scores"]).SerializeToString())

    write_as(format, path, write_onnx, lambda file: torch_file.save(program, file))


def _synthetic() -> list[tuple[str, np.ndarray]]:
    """Return synthetic images: drawn scenes of several shapes, one colour, and noise."""
    rng = np.random.default_rng(0)
    sides = ((240, 320), (333, 217), (96, 96))
    found = [(f"scene of {w} x {h}", draw_scene(k, h, w, rng)[0]) for k, (h, w) in enumerate(sides)]
    noise = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    return [*found, ("one color", np.full((180, 260, 3), 128, np.uint8)), ("noise", noise)]


def _prepared(images: Sequence[tuple[str, np.ndarray]], model: Classifier) -> list[tuple[str, Tensor]]:
    """Return the images as the network sees them, (3, S, S) uint8."""
    made = model.preprocessing
    square = centre_square(made.crop, made.resize, made.interpolation)
    return [(name, square(torch.from_numpy(pixels).permute(2, 0, 1))) for name, pixels in images]

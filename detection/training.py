"""Train from Python: ``train("mask_rcnn_r50_fpn_1x_coco", data="my_data", output="runs/first", epochs=24)``."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detection.models.detector import Detector


@dataclass(frozen=True)
class TrainResult:
    """A finished training."""

    folder: Path
    """Folder of the run, which any command and :func:`detection.load_model` take."""
    history: list[dict[str, float]]
    """A dictionary for each evaluation, the rows of ``val.csv``: ``val/bbox/AP``, ``step``, ..."""

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation; empty without validation."""
        return self.history[-1] if self.history else {}

    @property
    def report(self) -> Path | None:
        """The evaluation report; None where the run made none, as without validation."""
        found = self.folder / "report.html"
        return found if found.is_file() else None

    @property
    def last(self) -> Path:
        """The checkpoint of the last step, from which training can continue."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best AP; the last one without validation."""
        found = self.folder / "checkpoints" / "best.ckpt"
        return found if found.is_file() else self.last

    def load(self, device: str = "cpu") -> "Detector":
        """Load the best detector."""
        from detection.inference import load_model

        return load_model(self.best, device=device)

    def plot(self, path: str | Path | None = None) -> Path:
        """Draw losses and AP into ``path``, or ``curves.png`` of the folder if None; return the path."""
        from detection.curves import plot, read_run

        target = Path(path or self.folder / "curves.png")
        plot({self.folder.name: read_run(self.folder)}, target, 1)
        return target


def train(
    config: str | Path | None = None,
    *,
    data: str | Path | None = None,
    output: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    image_size: tuple[int, int] | None = None,
    weights: str | Path | None = None,
    resume: bool | str | Path = False,
    trackers: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Train a detector as ``rcnn train`` does, in this process.

    Args:
        config: name or file of a configuration; if None, one that suits the data.
        data: a data set, as ``rcnn train --data`` takes it.
        output: folder of the run; numbered below ``runs`` if None.
        epochs: passes over the training images.
        batch_size: images per step, over all devices.
        lr: learning rate at this batch size.
        image_size: shortest and longest side of the images.
        weights: a model to begin with, or ``imagenet`` for the backbone.
        resume: continue the run in ``output``, or in this folder.
        trackers: ``tensorboard``, ``wandb`` or ``mlflow``, which get curves, images, settings and the report.
        settings: any others by their names, as ``{"model.backbone.name": "resnet101", "seed_everything": 1}``.

    Returns:
        Where the run is, and its evaluations.

    Raises:
        ValueError: a setting, a file or an annotation that cannot be used, in one line.

    Example:
        >>> result = train("demo", data="demo/data", output="runs/shapes", epochs=1)  # doctest: +SKIP
        >>> result.load().predict("demo/data/val/1000.jpg")  # doctest: +SKIP
    """
    from detection.commands.training_settings import settings as words_of
    from detection.engine.command import run
    from detection.run_files import evaluations

    options = argparse.Namespace(
        config=None if config is None else str(config),
        data=None if data is None else str(data),
        output=None if output is None else Path(output),
        epochs=epochs,
        batch=batch_size,
        lr=lr,
        size=image_size,
        weights=None if weights is None else str(weights),
        trackers=list(trackers),
        resume=("auto" if resume else None) if isinstance(resume, bool) else str(resume),
        rest=[word for name, value in (settings or {}).items() for word in (f"--{name}", _word(value))],
        **dict.fromkeys(("device", "precision", "workers", "seed", "deterministic")),
        **{"val_fraction": 0.2, "trust_code": False, "debug": False},
    )
    done = run(["fit", *words_of(options)])
    folder = Path(done.trainer.log_dir or ".")
    return TrainResult(folder, evaluations(folder))


def _word(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else str(value) if isinstance(value, Path) else json.dumps(value)

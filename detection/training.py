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
    """Folder, metrics and checkpoints of a finished training."""

    folder: Path
    """Folder of the run, which all commands and :func:`detection.load_model` accept."""
    history: list[dict[str, float]]
    """Metrics of each validation, the rows of ``val.csv``: ``val/bbox/AP``, ``step``, ..."""

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last validation; empty without validation."""
        return self.history[-1] if self.history else {}

    @property
    def report(self) -> Path | None:
        """Path of the evaluation report; None if the run wrote none, for example without validation."""
        found = self.folder / "report.html"
        return found if found.is_file() else None

    @property
    def last(self) -> Path:
        """Path of the checkpoint of the last step, from which training can resume."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        """Path of the checkpoint with the best AP; without validation, that of the last one."""
        found = self.folder / "checkpoints" / "best.ckpt"
        return found if found.is_file() else self.last

    def load(self, device: str = "cpu") -> "Detector":
        """Load the detector of the best checkpoint."""
        from detection.inference import load_model

        return load_model(self.best, device=device)

    def plot(self, path: str | Path | None = None) -> Path:
        """Draw losses and AP, and return the path of the image.

        Args:
            path: image file to write; None: ``curves.png`` in the folder of the run.
        """
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
        config: name or file of a config; None: one that suits the data.
        data: folder or file of a data set, as for ``rcnn train --data``.
        output: folder of the run; None: a numbered folder in ``runs``.
        epochs: number of passes over the training images.
        batch_size: images per optimizer step, over all devices.
        lr: learning rate at this batch size.
        image_size: shorter side, and maximum of the longer side, in pixels.
        weights: model to start from, or ``imagenet`` for weights of the backbone only.
        resume: True: resume the run in ``output``; a path: resume from this run's folder or checkpoint.
        trackers: ``tensorboard``, ``wandb`` or ``mlflow``; they receive metrics, images, settings and the report.
        settings: other settings by name, such as ``{"model.backbone.name": "resnet101", "seed_everything": 1}``.

    Returns:
        The folder of the run, and the metrics of its validations.

    Raises:
        ValueError: a setting, a file or an annotation is invalid; the message is one line.

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
        **{"val_fraction": 0.2, "find_lr": False, "trust_code": False, "debug": False},
    )
    done = run(["fit", *words_of(options)])
    folder = Path(done.trainer.log_dir or ".")
    return TrainResult(folder, evaluations(folder))


def _word(value: Any) -> str:
    """Return a value as a word of the command line."""
    return value if isinstance(value, str) else str(value) if isinstance(value, Path) else json.dumps(value)

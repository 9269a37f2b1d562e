"""Send a run to experiment trackers, through Lightning's loggers: TensorBoard, Weights & Biases and MLflow.

Lightning sends the metrics. A callback adds images, settings and the report.
"""

import os
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from detection.data.errors import first_line
from detection.engine.configs import load_yaml
from detection.engine.errors import InputError
from detection.foreign import printable
from detection.run_files import IMAGES

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Module that each tracker needs; the extra of the package has the name of the tracker."""
PAGES = ("report.html", "curves.png", "summary.md", "run.json", "classes.txt", "config.yaml")
"""Files of a finished run for the trackers."""


def check_trackers(names: Iterable[str]) -> None:
    """Reject a tracker that is unknown or not installed.

    Raises:
        InputError: a tracker is unknown, or not installed; the message names the command that installs it.
    """
    for name in names:
        if name not in PACKAGES:
            raise InputError(f"run.trackers: {name} is unknown; choose from {', '.join(PACKAGES)}")
        if find_spec(PACKAGES[name]) is None:
            raise InputError(
                f"run.trackers: {name} is not installed; run pip install 'rcnn-toolkit[{name}]', or remove it"
            )


def make(names: Sequence[str], folder: Path, project: str, known: Mapping[str, str]) -> list[Logger]:
    """Return the loggers of the trackers.

    Args:
        names: names of the trackers.
        folder: folder of the run; TensorBoard and Weights & Biases write into it.
        project: name of the project or experiment, unless ``WANDB_PROJECT`` or ``MLFLOW_EXPERIMENT_NAME`` is set.
        known: IDs from earlier starts of this run, by tracker; a resumed run continues their curves.
    """
    loggers: list[Logger] = []
    if "tensorboard" in names:
        loggers.append(TensorBoard(folder.parent, name="", version=folder.name))
    if "wandb" in names:
        wanted = os.environ.get("WANDB_PROJECT") or project
        loggers.append(WandbLogger(folder.name, folder, id=known.get("wandb") or uuid.uuid4().hex[:8], project=wanted))
    if "mlflow" in names:
        import mlflow

        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or project
        uri = mlflow.get_tracking_uri()
        loggers.append(MLFlowLogger(experiment, folder.name, uri, run_id=known.get("mlflow")))
    return loggers


class TensorBoard(TensorBoardLogger):
    """Use Lightning's logger without its file of settings, since ``config.yaml`` contains them."""

    def save(self) -> None:
        super(TensorBoardLogger, self).save()


def ids(loggers: Iterable[Logger]) -> dict[str, str]:
    """Return the trackers' IDs of this run, with which its next start continues."""
    kinds = {WandbLogger: "wandb", MLFlowLogger: "mlflow"}
    found = {name: logger.version for logger in loggers for kind, name in kinds.items() if isinstance(logger, kind)}
    return {name: str(version) for name, version in found.items() if version is not None}


class Trackers(Callback):
    """Send settings, images and the report to the trackers of a run; on rank 0 only.

    This includes loggers of ``trainer.logger`` for TensorBoard, Weights & Biases and MLflow. If a tracker fails, the
    run prints a warning and continues.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._sent: set[tuple[str, int]] = set()

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        folder = trainer.log_dir  # all ranks must call it
        if folder is None or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._folder = Path(folder)
        self._sent = set(self._images())
        if trainer.ckpt_path is None and (settings := self._folder / "config.yaml").is_file():
            content = settings.read_text(encoding="utf-8")
            self._each(trainer, "the settings", lambda logger: send_settings(logger, content))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._folder is not None and not trainer.sanity_checking:
            self._send_images(trainer)

    def finish(self, trainer: Trainer, failed: bool) -> None:
        """Send the files of a finished run, and close the run at Weights & Biases."""
        if self._folder is None:
            return
        self._send_images(trainer)
        files = [path for name in PAGES if (path := self._folder / name).is_file()]
        step = trainer.global_step
        self._each(trainer, "the files of the run", lambda logger: send_files(logger, files, step))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=int(failed))

    def _send_images(self, trainer: Trainer) -> None:
        new = {key: path for key, path in self._images().items() if key not in self._sent}
        self._sent |= set(new)
        for path in new.values():
            self._each(trainer, path.name, partial(send_image, path=path, step=trainer.global_step))

    def _images(self) -> dict[tuple[str, int], Path]:
        """Return the images in the run's folder by name and modification time; a rewritten image is a new one."""
        assert self._folder is not None
        paths = sorted((self._folder / IMAGES).glob("*.jpg"))
        return {(path.name, path.stat().st_mtime_ns): path for path in paths}

    def _each(self, trainer: Trainer, what: str, send: Callable[[Logger], None]) -> None:
        for logger in trainer.loggers:
            try:
                send(logger)
            except Exception as error:
                name = type(logger).__name__
                line = f"warning: {name} did not get {what}: {first_line(error)[:300]}"
                print(printable(line), file=sys.stderr)


def send_settings(logger: Logger, content: str) -> None:
    """Send the settings of a run.

    Args:
        logger: logger of a tracker.
        content: content of ``config.yaml``.
    """
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text("config", f"```yaml\n{content}\n```")
    elif isinstance(logger, WandbLogger):
        logger.experiment.config.update(load_yaml(content), allow_val_change=True)
    elif isinstance(logger, MLFlowLogger):
        logger.log_hyperparams(load_yaml(content))


def send_image(logger: Logger, path: Path, step: int) -> None:
    """Send an image of a run; the images of all validations have the same name."""
    name = "val_predictions" if path.name.startswith("val") else path.stem
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, pixels(path), step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [str(path)], step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(path), IMAGES)


def pixels(path: Path) -> np.ndarray:
    """Return the pixels of an image that a run has written: (H, W, 3) uint8, RGB."""
    found = cv2.imread(str(path))
    if found is None:
        raise ValueError(f"{path} is not an image")
    return found[..., ::-1].copy()


def send_files(logger: Logger, files: Sequence[Path], step: int) -> None:
    """Send the files of a run that has ended: its report, curves, summary and settings."""
    if isinstance(logger, TensorBoardLogger):
        for path in files:
            if path.suffix == ".png":
                logger.experiment.add_image(path.stem, pixels(path), step, dataformats="HWC")
            elif path.suffix == ".html":  # TensorBoard cannot show HTML pages
                logger.experiment.add_text(path.stem, f"Open {path.resolve()} in a browser", step)
            elif path.suffix == ".md":
                logger.experiment.add_text(path.stem, path.read_text(encoding="utf-8"), step)
        logger.experiment.flush()
    elif isinstance(logger, WandbLogger):
        import wandb

        artifact = wandb.Artifact(f"run-{logger.version}-files", type="run")
        for path in files:
            artifact.add_file(str(path))
            if path.suffix == ".html":
                logger.experiment.log({path.stem: wandb.Html(path.read_text(encoding="utf-8"))})
            elif path.suffix == ".png":
                logger.log_image(path.stem, [str(path)], step)
        logger.experiment.log_artifact(artifact)
    elif isinstance(logger, MLFlowLogger):
        for path in files:
            logger.experiment.log_artifact(logger.run_id, str(path))

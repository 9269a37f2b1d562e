"""The settings of a run, the lock of its folder, and its callbacks.

docs/reference/outputs.md describes each file in the folder.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar

from detection.engine.average import Average, AverageConfig
from detection.engine.best_checkpoint import BestCheckpoint, KnownScores
from detection.engine.best_detections import BestDetections
from detection.engine.changes import Changes
from detection.engine.closing import Closing, WriteReport
from detection.engine.divergence import WatchLoss
from detection.engine.early_stopping import StayStopped, StopEarly
from detection.engine.error_place import ErrorPlace
from detection.engine.errors import InputError, user_input
from detection.engine.find_rate import FindRate
from detection.engine.found_checkpoint import checkpoint_in
from detection.engine.last_checkpoint import LastCheckpoint
from detection.engine.lightning_mends.pending_evaluations import ValidateAtEnd
from detection.engine.nonfinite import SkipNonFinite, StopAtNonFinite
from detection.engine.opening import FrozenParts, Opening
from detection.engine.parts import BEST, EVERY, Parts
from detection.engine.pictures import Pictures
from detection.engine.run_record import RunRecord
from detection.engine.shares import Shares
from detection.engine.signals import SaveAndStop, StopEvaluation
from detection.engine.summary import Best
from detection.engine.tables import Tables
from detection.engine.terminal import Bar, Lines
from detection.engine.throughput import Throughput
from detection.engine.trackers import Trackers
from detection.quiet import is_quiet

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class RunConfig:
    """Output folder of a run, trackers, checkpoints, images and early stopping."""

    name: str | None = None
    """Name of a group of runs: the output folder is ROOT/NAME/version_N, with trainer.default_root_dir (default: runs)
    as ROOT; null: the name of the first config."""
    folder: str | None = None
    """Output folder of this run; null: the next free ROOT/NAME/version_N."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = field(default_factory=list)
    """Experiment trackers that receive metrics, images, settings and the report."""
    tensorboard: bool = False
    """Short form of adding tensorboard to trackers."""
    pictures: int = 4
    """Number of samples on each image in images/; 0: no images."""
    report: bool = True
    """Write report.html and curves.png at the end of the training."""
    early_stopping: int | None = None
    """Stop after this number of validations in a row without a better AP; null: never."""
    find_lr: bool = False
    """Search for a learning rate instead of training: write find_lr.png, print the suggestion, and stop."""
    skip_nonfinite: int = 0
    """Maximum number of steps with NaN or infinite gradients to skip; the next one stops training. 0: stop at the first
    NaN or infinite loss."""
    save_minutes: float = 30
    """Minutes between two saves of last.ckpt within an epoch; the run also saves it before and after each
    validation."""
    save_in_background: bool = False
    """Write checkpoints in a thread while training continues; this needs memory for a second copy of the state."""
    allow_changed_data: bool = False
    """Allow to resume with other training images, or another order of them; the run then restarts the current
    epoch."""
    average: AverageConfig | None = None
    """Average the weights over steps, and evaluate and save the average; null: use the weights of the last step."""


def refuse_another_run(folder: str | Path) -> None:
    """Raise an error if a new run would overwrite the checkpoints of another one.

    Raises:
        InputError: the folder has a checkpoint; the message names it.
    """
    with user_input():
        found = checkpoint_in(folder)
    if found is not None:
        raise InputError(f"run.folder {folder} has {found}: continue with --resume auto, or use another folder")


def lock_folder(folder: str | Path) -> IO[str] | None:
    """Lock a folder, so that no other process trains into it.

    Returns:
        An open file that holds the lock until it is closed; None if the system or the file system has no such locks.

    Raises:
        InputError: another process has locked the folder, or it is not writable.
    """
    if fcntl is None:
        return None
    with user_input():
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = open(Path(folder) / ".lock", "w")  # noqa: SIM115
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not inherited by the loader's workers
    except (BlockingIOError, PermissionError) as error:
        raise InputError(f"run.folder {folder}: another run is training into it; use another folder") from error
    except OSError:
        file.close()
        return None
    return file


def callbacks(
    config: RunConfig,
    given: Sequence[Callback] = (),
    bar: bool = True,
    save: bool = True,
    report: WriteReport | None = None,
    monitor: str = BEST,
    parts: Parts = EVERY,
) -> list[Callback]:
    """Return the toolkit's callbacks for a run.

    Args:
        config: settings of the run.
        given: the user's callbacks; a progress bar among them replaces the toolkit's.
        bar: show progress.
        save: write checkpoints.
        report: function that writes the report of the best validation.
        monitor: metric that determines the best checkpoint.
        parts: callbacks that this kind of models has.
    """
    guard = SkipNonFinite(config.skip_nonfinite) if config.skip_nonfinite else StopAtNonFinite()
    ours: list[Callback] = [ErrorPlace(), guard, WatchLoss()]
    if config.average is not None:
        ours.append(Average(config.average))  # before callbacks that save, so that they save the last step's update
    for callback in given:
        if isinstance(callback, EarlyStopping) and callback.monitor.startswith("val/"):
            callback._check_on_train_epoch_end = False  # count before the checkpoints of the validation are written
    best, record = Best(monitor), RunRecord()
    detections = (parts.best or BestDetections)(monitor) if config.report and parts.report else None
    ours += [Opening(), FrozenParts(), StayStopped(), best, ValidateAtEnd(), Throughput(), Shares(), Tables(), record]
    ours += [] if detections is None else [detections]
    if save:
        last = LastCheckpoint(config.save_minutes)
        ours += [BestCheckpoint(monitor), last, KnownScores(), Changes(config.allow_changed_data), SaveAndStop(last)]
    else:
        ours.append(StopEvaluation())
    if config.pictures and parts.pictures:
        ours.append(Pictures(config.pictures))
    if config.early_stopping is not None:
        ours.append(StopEarly(monitor, config.early_stopping))
    if config.find_lr:
        ours.append(FindRate())
    if bar and not any(isinstance(callback, ProgressBar) for callback in given):
        ours.append(Bar() if sys.stderr.isatty() and not is_quiet() else Lines())
    trackers = Trackers()
    # Last, since it prints the summary.
    ours += [trackers, Closing(best, record, trackers, detections, report, config.report)]
    return ours

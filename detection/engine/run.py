"""A run: its folder, its loggers and its callbacks.

docs/reference/outputs.md lists the files in the folder, each with its content.
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
from detection.engine.found_checkpoint import checkpoint_in
from detection.engine.last_checkpoint import LastCheckpoint
from detection.engine.lightning_mends.pending_evaluations import ValidateAtEnd
from detection.engine.nonfinite import SkipNonFinite, StopAtNonFinite
from detection.engine.opening import FrozenParts, Opening
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

BEST = "val/AP"
"""The metric by which a checkpoint is the best: AP of masks, or of boxes where there are no masks."""


@dataclass(frozen=True)
class RunConfig:
    """Where a run writes its files, and what it does beside training."""

    name: str | None = None
    """Folder of like runs below trainer.default_root_dir (runs); the name of the first config if not given."""
    folder: str | None = None
    """This run's own folder, instead of the next runs/NAME/version_N."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = field(default_factory=list)
    """Experiment trackers that get curves, images, settings and the report."""
    tensorboard: bool = False
    """The same as tensorboard in trackers."""
    pictures: int = 4
    """Samples on each file in images/; 0 writes none."""
    report: bool = True
    """Write report.html and curves.png at the end of the training."""
    early_stopping: int | None = None
    """Stop after this number of validations without a better AP."""
    skip_nonfinite: int = 0
    """Steps with a NaN or infinite loss or gradient that are skipped before training stops."""
    save_minutes: float = 30
    """Save last.ckpt so often between validations, which save it anyway."""
    save_in_background: bool = False
    """Write checkpoints in a thread while training continues; takes the memory of one more copy."""
    allow_changed_data: bool = False
    """Resume with other training images, or in another order; the epoch that was running begins again."""
    average: AverageConfig | None = None
    """Keep an average of the weights, and evaluate and save it."""


def refuse_another_run(folder: str | Path) -> None:
    """Raise where a new run would overwrite the checkpoints of another one.

    Raises:
        InputError: naming the checkpoint.
    """
    with user_input():
        found = checkpoint_in(folder)
    if found is not None:
        raise InputError(f"run.folder {folder} has {found}: continue with --resume auto, or take another folder")


def lock_folder(folder: str | Path) -> IO[str] | None:
    """Keep other processes from training into a folder.

    Returns:
        A file that holds the lock as long as it is open; None where the system or the file system has no such locks.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    if fcntl is None:
        return None
    with user_input():
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = open(Path(folder) / ".lock", "w")  # noqa: SIM115
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not inherited by the loader's workers
    except (BlockingIOError, PermissionError) as error:
        raise InputError(f"run.folder {folder}: another run is training into it; take another folder") from error
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
) -> list[Callback]:
    """The callbacks of every run.

    Args:
        given: the user's own; a progress bar among them replaces ours.
        bar: show progress at all.
        save: write checkpoints.
        report: writes the evaluation report of the best evaluation.
    """
    guard = SkipNonFinite(config.skip_nonfinite) if config.skip_nonfinite else StopAtNonFinite()
    ours: list[Callback] = [ErrorPlace(), guard, WatchLoss()]
    if config.average is not None:
        ours.append(Average(config.average))  # before what saves, which would miss the last step's update
    for callback in given:
        if isinstance(callback, EarlyStopping) and callback.monitor.startswith("val/"):
            callback._check_on_train_epoch_end = False  # counts before the checkpoints of the evaluation are written
    best, record = Best(BEST), RunRecord()
    detections = BestDetections(BEST) if config.report else None
    ours += [Opening(), FrozenParts(), StayStopped(), best, ValidateAtEnd(), Throughput(), Shares(), Tables(), record]
    ours += [] if detections is None else [detections]
    if save:
        last = LastCheckpoint(config.save_minutes)
        ours += [BestCheckpoint(BEST), last, KnownScores(), Changes(config.allow_changed_data), SaveAndStop(last)]
    else:
        ours.append(StopEvaluation())
    if config.pictures:
        ours.append(Pictures(config.pictures))
    if config.early_stopping is not None:
        ours.append(StopEarly(BEST, config.early_stopping))
    if bar and not any(isinstance(callback, ProgressBar) for callback in given):
        ours.append(Bar() if sys.stderr.isatty() and not is_quiet() else Lines())
    trackers = Trackers()
    ours += [trackers, Closing(best, record, trackers, detections, report)]  # its lines are the last ones
    return ours

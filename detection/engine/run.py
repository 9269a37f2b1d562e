"""A run: its folder, its loggers and its callbacks.

``runs/NAME/version_N/`` holds config.yaml, run.json, metrics.csv, metrics.json, the pictures and checkpoints/best.ckpt,
checkpoints/last.ckpt.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar

from detection.engine.average import Average, AverageConfig
from detection.engine.best_checkpoint import BestCheckpoint, KnownScores
from detection.engine.changes import Changes
from detection.engine.divergence import WatchLoss
from detection.engine.early_stopping import StayStopped, StopEarly
from detection.engine.error_place import ErrorPlace
from detection.engine.errors import InputError, user_input
from detection.engine.last_checkpoint import LastCheckpoint
from detection.engine.lightning_mends.pending_evaluations import ValidateAtEnd
from detection.engine.metrics_file import MetricsFile
from detection.engine.nonfinite import SkipNonFinite, StopAtNonFinite
from detection.engine.opening import FrozenParts, Opening
from detection.engine.pictures import Pictures
from detection.engine.run_record import RunRecord
from detection.engine.shares import Shares
from detection.engine.signals import SaveAndStop, StopEvaluation
from detection.engine.summary import Summary
from detection.engine.terminal import Bar, Lines
from detection.engine.throughput import Throughput
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
    tensorboard: bool = False
    """Write TensorBoard's files, too."""
    pictures: int = 4
    """Images on train_batch.jpg and val_predictions_*.jpg; 0 for none."""
    early_stopping: int | None = None
    """Stop after so many validations without a better AP."""
    skip_nonfinite: int = 0
    """Steps with a loss or gradient that is not finite that are left out before training stops."""
    save_minutes: float = 30
    """Save last.ckpt so often between validations, which save it anyway."""
    save_in_background: bool = False
    """Write checkpoints in a thread while training goes on; takes the memory of one more copy."""
    allow_changed_data: bool = False
    """Resume with other training images, or in another order; the epoch that was running begins again."""
    average: AverageConfig | None = None
    """Keep an average of the weights, and evaluate and save it."""


def checkpoint_in(folder: str | Path) -> Path | None:
    """The checkpoint that a run in this folder goes on from: ``last.ckpt``, or ``best.ckpt`` if there is no other.

    A run that is killed at its first evaluation may have written the best one alone.

    Raises:
        OSError: the folder cannot be looked into, which is no reason to begin anew.
    """
    for name in ("last.ckpt", "best.ckpt"):
        path = Path(folder) / "checkpoints" / name
        try:
            path.stat()  # is_file would take a file that cannot be reached for none
        except (FileNotFoundError, NotADirectoryError):
            continue
        return path
    return None


def refuse_another_run(folder: str | Path) -> None:
    """Refuse to begin where a run has its checkpoints, which would be written over.

    Raises:
        InputError: naming the checkpoint.
    """
    with user_input():
        found = checkpoint_in(folder)
    if found is not None:
        raise InputError(f"run.folder {folder} has {found}: go on with --resume auto, or take another folder")


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


def set_metrics_aside(config: RunConfig) -> Path | None:
    """Rename ``metrics.csv`` of a run that continues in its old folder, so that it is not overwritten; its new path."""
    if config.folder is None:
        return None
    old = Path(config.folder) / "metrics.csv"
    if not old.is_file():
        return None
    kept = old.with_name(f"metrics_{len(list(old.parent.glob('metrics_*.csv')))}.csv")
    os.replace(old, kept)
    return kept


def restore_metrics(kept: Path) -> None:
    """Undo :func:`set_metrics_aside` if the run wrote no new file."""
    if not kept.with_name("metrics.csv").exists():
        os.replace(kept, kept.with_name("metrics.csv"))


def callbacks(config: RunConfig, given: Sequence[Callback] = (), bar: bool = True, save: bool = True) -> list[Callback]:
    """The callbacks of every run.

    Args:
        given: the user's own; a progress bar among them replaces ours.
        bar: show progress at all.
        save: write checkpoints.
    """
    guard = SkipNonFinite(config.skip_nonfinite) if config.skip_nonfinite else StopAtNonFinite()
    ours: list[Callback] = [ErrorPlace(), guard, WatchLoss()]
    if config.average is not None:
        ours.append(Average(config.average))  # before what saves, which would miss the last step's update
    for callback in given:
        if isinstance(callback, EarlyStopping) and callback.monitor.startswith("val/"):
            callback._check_on_train_epoch_end = False  # counts before the checkpoints of the evaluation are written
    ours += [
        Opening(),
        FrozenParts(),
        StayStopped(),
        Summary(BEST),
        ValidateAtEnd(),
        Throughput(),
        Shares(),
        MetricsFile(),
        RunRecord(),
    ]
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
    return ours

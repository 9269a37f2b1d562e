"""The folder of a run, and the loggers that write into it.

The folder is ``run.folder``, or the next ``runs/NAME/version_N``. A run writes all its files there, with any loggers.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from detection.engine.run_record import starts
from detection.engine.tables import TrainTable
from detection.engine.trackers import make


def run_folder(folder: str | None, root: str | Path, name: str | None) -> str:
    """Return the folder of a run: the given one, or the next free ``ROOT/NAME/version_N``."""
    return folder or str(CSVLogger(root, name=name).log_dir)


def loggers(
    given: Logger | Iterable[Logger] | bool | None, folder: str, trackers: Sequence[str] = (), project: str = "rcnn"
) -> list[Logger]:
    """Return the user's loggers, then the one of ``train.csv`` in the run's folder, then the trackers.

    Args:
        given: ``trainer.logger``; False: no loggers at all; None or True: only the toolkit's.
        trackers: names of trackers for :func:`~detection.engine.trackers.make`.
        project: name of the project under which trackers list the run.
    """
    if given is False:
        return []
    users = [] if given is None or given is True else [given] if isinstance(given, Logger) else list(given)
    place = Path(folder)
    known = next((start.get("trackers") for start in reversed(starts(place))), None)
    return [*users, TrainTable(place), *make(trackers, place, project, known if isinstance(known, dict) else {})]


def keep_checkpoints_in(folder: str, callbacks: Sequence[Callback]) -> None:
    """Set the folder of every ``ModelCheckpoint`` without one to ``checkpoints`` in the run's folder."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = os.path.join(folder, "checkpoints")

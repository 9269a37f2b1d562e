"""The folder of a run, and the loggers that write into it.

The folder is ``run.folder``, or the next ``runs/NAME/version_N``, whatever logs. All that a run writes is in there.
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
    """The folder of a run: the one that was asked for, or the next below root and name."""
    return folder or str(CSVLogger(root, name=name).log_dir)


def loggers(
    given: Logger | Iterable[Logger] | bool | None, folder: str, trackers: Sequence[str] = (), project: str = "rcnn"
) -> list[Logger]:
    """The user's loggers, then ``train.csv`` in the run's folder, then the trackers.

    Args:
        given: ``trainer.logger``; False for none at all, None or True for the toolkit's alone.
        trackers: names, as :func:`~detection.engine.trackers.make` takes them.
        project: under which trackers list the run.
    """
    if given is False:
        return []
    users = [] if given is None or given is True else [given] if isinstance(given, Logger) else list(given)
    place = Path(folder)
    known = next((start.get("trackers") for start in reversed(starts(place))), None)
    return [*users, TrainTable(place), *make(trackers, place, project, known if isinstance(known, dict) else {})]


def keep_checkpoints_in(folder: str, callbacks: Sequence[Callback]) -> None:
    """Let every ``ModelCheckpoint`` that has no folder of its own write into the run's."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = os.path.join(folder, "checkpoints")

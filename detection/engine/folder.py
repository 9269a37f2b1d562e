"""The folder of a run, and the loggers that write into it.

The folder is ``run.folder``, or the next ``runs/NAME/version_N``, whatever logs. All that a run writes is in there.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger


def run_folder(folder: str | None, root: str | Path, name: str | None) -> str:
    """The folder of a run: the one that was asked for, or the next below root and name."""
    return folder or str(CSVLogger(root, name=name).log_dir)


def loggers(given: Logger | Iterable[Logger] | bool | None, folder: str, tensorboard: bool = False) -> list[Logger]:
    """The user's loggers, and those that write into the run's folder: CSV and, by choice, TensorBoard.

    Args:
        given: ``trainer.logger``; False for none at all, None or True for ours alone.
    """
    if given is False:
        return []
    users = [] if given is None or given is True else [given] if isinstance(given, Logger) else list(given)
    place = Path(folder)
    ours: list[Logger] = []
    if not any(isinstance(user, CSVLogger) and _is_same(user.log_dir, place) for user in users):
        ours.append(CSVLogger(place.parent, name="", version=place.name))
    if tensorboard:
        ours.append(TensorBoardLogger(place.parent, name="", version=place.name))
    return [*users, *ours]


def keep_checkpoints_in(folder: str, callbacks: Sequence[Callback]) -> None:
    """Let every ``ModelCheckpoint`` that has no folder of its own write into the run's."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = os.path.join(folder, "checkpoints")


def _is_same(one: str | Path, other: str | Path) -> bool:
    return Path(one).resolve() == Path(other).resolve()

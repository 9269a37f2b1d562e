"""The data module of a trainer, with its type, for modules that do not import the data module."""

from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

if TYPE_CHECKING:
    from detection.engine.resumable_data import ResumableData


def data_of(trainer: Trainer) -> "ResumableData":
    """Return the data module of a trainer."""
    data: ResumableData = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it and does not declare it
    return data

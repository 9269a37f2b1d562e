"""Add to an error in training where it happened: rank, step and images."""

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detection.engine.errors import lost_rank
from detection.foreign import printable
from detection.structures import IGNORE, Batch


class ErrorPlace(Callback):
    """Add to an error in training the rank, the step and the images of the batch."""

    def __init__(self) -> None:
        self._ids: Any = None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, index: int) -> None:
        self._ids = batch.image_ids

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self._ids = None

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if self._ids is not None:
            ids = ", ".join(str(image_id) for image_id in self._ids.tolist() if image_id != IGNORE)
            place = f"rank {trainer.global_rank}, step {trainer.global_step}, images with id {ids}"
            exception.add_note(place)
            if trainer.world_size > 1 and not lost_rank(exception):
                # Print now: this error makes the other ranks fail, and the first error found ends all ranks.
                what = f"{place}: {type(exception).__name__}: {exception}"
                print(f"error on {printable(what)}", file=sys.stderr, flush=True)

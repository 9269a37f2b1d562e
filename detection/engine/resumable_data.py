"""What the data modules of detectors and classifiers share: batches, steps, and the position of a training."""

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer

from detection.categories import Categories
from detection.data.samplers import TrainBatchSampler
from detection.engine.errors import InputError
from detection.engine.lightning_mends.checkpoints import NoClassLoading
from detection.engine.place import Place
from detection.engine.share import Share


class ResumableData(NoClassLoading, LightningDataModule):
    """Provide batches of images, so that a run can resume with the next unseen image."""

    config: Any
    """Settings, with ``batch_size``, ``eval_batch_size`` and ``seed``."""
    place: Place

    @property
    def categories(self) -> Categories:
        """Classes, which are the same in all splits in use."""
        raise NotImplementedError

    def record(self) -> Mapping[str, Any]:
        """Return, by split, the file or folder with the labels, and its numbers, for ``run.json``."""
        raise NotImplementedError

    def ingredients(self) -> dict[str, Any]:
        """Return what decides which images a training sees, by the names of the settings."""
        raise NotImplementedError

    def _train_sampler(self) -> TrainBatchSampler:
        raise NotImplementedError

    @property
    def device_batch(self) -> int:
        """Images per device and batch in training.

        Raises:
            InputError: the images of a step cannot be divided evenly among devices and accumulated batches.
        """
        return self._share.images(self.config.batch_size)

    @property
    def batches_per_epoch(self) -> int:
        """Training batches per device and epoch."""
        limit, batches = self._trainer.limit_train_batches, len(self._train_sampler())
        return min(batches, limit) if isinstance(limit, int) else int(batches * limit)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return max(1, math.ceil(self.batches_per_epoch / self._trainer.accumulate_grad_batches))

    @property
    def epoch_is_over(self) -> bool:
        """Whether the epoch that was loaded last has ended: between two epochs, and after the last one."""
        return self.place.is_over(self._trainer.current_epoch)

    @property
    def batches_done(self) -> int:
        """Number of finished batches of the resumed epoch, counted in batches of this run."""
        return self.place.batches_done(self._train_sampler())

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the training in its data: epoch, images seen in it, and images per step."""
        batches = self._trainer.fit_loop.batch_idx + 1
        return self.place.state(self._trainer.current_epoch, batches, self._train_sampler())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume with the next unseen image."""
        self.place.resume(state_dict)

    @property
    def _trainer(self) -> Trainer:
        """The trainer, which most methods need."""
        assert self.trainer is not None
        return self.trainer

    @property
    def _share(self) -> Share:
        trainer = self._trainer
        pins = trainer.strategy.root_device.type == "cuda"
        return Share(trainer.world_size, trainer.global_rank, trainer.accumulate_grad_batches, pins)

    def _next_epoch(self) -> tuple[int, int, int]:
        return self.place.next_epoch(self._trainer.current_epoch, self._train_sampler(), self.batches_per_epoch)

    def _check_batches(self) -> None:
        """Reject a validation interval longer than an epoch."""
        every, batches = self._trainer.val_check_interval, self.batches_per_epoch
        within_an_epoch = self._trainer.check_val_every_n_epoch is not None and self._trainer.limit_val_batches
        if within_an_epoch and isinstance(every, int) and every > batches:
            raise InputError(
                f"trainer.val_check_interval {every} is more than the batches of an epoch, {batches}; to count batches "
                "over several epochs, set trainer.check_val_every_n_epoch null"
            )

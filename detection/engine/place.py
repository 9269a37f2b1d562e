"""The position of a training in its data: the epoch, and the number of its images that training has seen.

It counts images, not batches, so that a run can resume with another batch size, accumulation or number of devices.
"""

from typing import Any

from detection.data.samplers import TrainBatchSampler


class Place:
    """Keep the position for checkpoints, and compute where the next epoch starts.

    Args:
        batch_size: images per optimizer step of this run.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._resumed: dict[str, int] | None = None
        self._loaded_epoch: int | None = None

    def is_over(self, epoch: int) -> bool:
        """Return whether the epoch that was loaded last has ended: between two epochs, and after the last one.

        Args:
            epoch: current epoch of the trainer.
        """
        return self._loaded_epoch is not None and epoch > self._loaded_epoch

    def state(self, epoch: int, batches: int, sampler: TrainBatchSampler) -> dict[str, Any]:
        """Return the position after some batches: the epoch, its images that training has seen, and images per step.

        Args:
            epoch: current epoch of the trainer.
            batches: number of finished batches of the epoch, as the trainer counts them.
            sampler: sampler of the training images.
        """
        epoch -= self.is_over(epoch)
        batch_images = sampler.batch_size * sampler.world_size
        images = batches * batch_images
        if self._resumed is not None and epoch == self._resumed["epoch"]:
            # The trainer counts this epoch in batches of this run; its first images had batches of another size.
            images += self._resumed["images"] - self.batches_done(sampler) * batch_images
        return {
            "epoch": epoch,
            "images": images,
            "grouped": self._grouped(epoch),
            "step_images": self.batch_size,
            "accumulated": sampler.accumulated,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Resume with the next unseen image of a saved position."""
        self._resumed = dict(state)

    def restart_epoch(self, epoch: int) -> None:
        """Restart a resumed epoch at its first image."""
        if self._resumed is not None:
            self._resumed |= {"epoch": epoch, "images": 0, "grouped": self.batch_size}

    def batches_done(self, sampler: TrainBatchSampler) -> int:
        """Return the number of finished batches of the resumed epoch, counted in batches of this run."""
        if self._resumed is None:
            return 0
        left = sampler.left(self._resumed["epoch"], self._resumed["images"], self._resumed["grouped"])
        return max(0, len(sampler) - left)

    def next_epoch(self, epoch: int, sampler: TrainBatchSampler, batches: int) -> tuple[int, int, int]:
        """Return the arguments of :meth:`TrainBatchSampler.start`: epoch, number of images to skip, images per step.

        Args:
            epoch: current epoch of the trainer.
            sampler: sampler of the training images.
            batches: number of batches of an epoch.
        """
        place = epoch, 0, self.batch_size
        if self._resumed is not None:
            resumed, images, grouped = (self._resumed[key] for key in ("epoch", "images", "grouped"))
            if self.batches_done(sampler) >= batches:
                resumed, images, grouped = resumed + 1, 0, self.batch_size
            if epoch <= resumed:
                place = resumed, images, grouped
        self._loaded_epoch = place[0]
        return place

    def _grouped(self, epoch: int) -> int:
        """Return the images per step that determine the order of the images of an epoch."""
        if self._resumed is not None and epoch == self._resumed["epoch"]:
            return self._resumed["grouped"]
        return self.batch_size

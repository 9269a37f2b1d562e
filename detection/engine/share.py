"""The part of an optimizer step that one process computes."""

from typing import NamedTuple

from detection.engine.errors import InputError
from detection.wording import plural


class Share(NamedTuple):
    """The part of an optimizer step that one process computes."""

    world_size: int
    """Number of processes, each with one device."""
    rank: int
    """Rank of this process."""
    accumulated: int
    """Batches of each process per optimizer step."""
    pin_memory: bool
    """Copy batches into pinned memory, for a GPU."""

    def images(self, batch_size: int) -> int:
        """Return the number of images per process and batch.

        Args:
            batch_size: images per optimizer step.

        Raises:
            InputError: the images of a step cannot be divided evenly among devices and accumulated batches.
        """
        parts = self.world_size * self.accumulated
        if batch_size % parts:
            fitting = [size for size in (batch_size // parts * parts, -(-batch_size // parts) * parts) if size]
            raise InputError(
                f"data.batch_size {batch_size} cannot be divided among {plural(self.world_size, 'device')} x "
                f"{plural(self.accumulated, 'accumulated batch')}; try {' or '.join(map(str, fitting))}"
            )
        return batch_size // parts

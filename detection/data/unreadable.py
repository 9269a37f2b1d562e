"""Replace unreadable training images by readable ones, up to a limit."""

import torch

from detection.data.errors import DataError


class Unreadable:
    """The images that no worker could read so far; all workers share the count.

    Args:
        images: number of images of the data set.
        allowed: number of images that may be unreadable.
    """

    def __init__(self, images: int, allowed: int) -> None:
        self._images, self._allowed = images, allowed
        self._bad = torch.zeros(images if allowed else 0, dtype=torch.bool).share_memory_()

    def replacement(self, index: int, error: ValueError) -> int:
        """Return the index of the image to read instead.

        Raises:
            DataError: the limit is reached.
        """
        if not self._allowed:
            raise DataError(str(error)) from error
        self._bad[index] = True
        if int(self._bad.sum()) > self._allowed:
            raise DataError(
                f"{error}\n  more unreadable images than data.bad_images ({self._allowed}) allows"
            ) from error
        return (index + 1) % self._images

    def indices(self) -> list[int]:
        """Return the indices of the images that no worker could read so far."""
        return self._bad.nonzero().flatten().tolist()

"""What is wrong with a data set, told so that it survives the way from a worker process."""

import re


def first_line(error: BaseException) -> str:
    """Of its message; its kind if it has none, as a connection that breaks off."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class DamageWarning(UserWarning):
    """An image is damaged, but its decoder goes on; the message names the file."""


class ImageError(ValueError):
    """An image must not or cannot be decoded; the message does not name the file, which the caller does."""


class DataError(ValueError):
    """An image or an annotation cannot be used; the message names the file and the remedy."""

    def told(self) -> str:
        """The message alone: PyTorch wraps what a worker raised in the worker's traceback."""
        message = str(self).rpartition("DataError: ")[2].strip()
        worker = re.match(r"Caught DataError in DataLoader worker process (\d+)", str(self))
        return f"{message} (told by worker {worker[1]})" if worker else message

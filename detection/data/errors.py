"""Errors and warnings about data. They keep their message when a worker process sends them to the training."""

import re


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's type if the message is empty."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class DamageWarning(UserWarning):
    """An image is damaged, but the decoder could still read it; the message names the file."""


class ImageError(ValueError):
    """An image cannot be decoded, or it is unsafe to decode it. The message lacks the path; the caller adds it."""


class DataError(ValueError):
    """An image or an annotation cannot be used; the message names the file and the fix.

    It has no attribute ``message``: PyTorch would pass one as a keyword when it raises a worker's error again.
    """

    def plain_message(self) -> str:
        """Return the message without the worker's traceback, which PyTorch puts around it."""
        message = str(self).rpartition("DataError: ")[2].strip()
        worker = re.match(r"Caught DataError in DataLoader worker process (\d+)", str(self))
        return f"{message} (reported by data-loader worker {worker[1]})" if worker else message

"""Errors whose message is all that a user needs to see."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something that the user gave is wrong: a file, an annotation, a setting."""


class NonFiniteError(RuntimeError):
    """A loss or the weights are no longer numbers."""


class StoppedError(RuntimeError):
    """Training was told to stop and has saved itself."""

    def __init__(self, number: int, step: int, checkpoint: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} after step {step}; go on with --resume {checkpoint}")
        self.code = 128 + number


@contextmanager
def user_input() -> Iterator[None]:
    """Where files and settings are taken in: what goes wrong here is told in a line, without a traceback."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from error

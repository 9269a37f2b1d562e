"""Errors whose message is all that a user needs to see."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something that the user gave is wrong: a file, an annotation, a setting."""


class NonFiniteError(RuntimeError):
    """A loss or the weights are no longer numbers."""


@contextmanager
def user_input() -> Iterator[None]:
    """Where files and settings are taken in: what goes wrong here is told in a line, without a traceback."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from error

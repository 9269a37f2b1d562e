"""The one switch for everything that is only faster: the environment variable ``RCNN_FAST``.

Unset, every faster way is used where it helps. ``RCNN_FAST=0`` uses none: networks stay as the plain files have them.
A list leaves some out: ``no-c`` (code that a C compiler builds), ``no-triton`` (GPU kernels), ``no-winograd``. The word
``winograd`` uses Winograd's convolutions without measuring first whether they are faster on this CPU.
"""

import os
from functools import cache

WORDS = ("0", "no-c", "no-triton", "no-winograd", "winograd")


@cache
def words() -> frozenset[str]:
    """Return the words of ``RCNN_FAST``.

    Raises:
        ValueError: a word that is not in :data:`WORDS`.
    """
    given = frozenset(filter(None, (word.strip() for word in os.environ.get("RCNN_FAST", "").split(","))))
    if unknown := given - set(WORDS) - {"1"}:
        raise ValueError(f"RCNN_FAST has the word {sorted(unknown)[0]!r}; use 0, or a list of {', '.join(WORDS[1:])}")
    return given


def is_off(way: str | None = None) -> bool:
    """Return whether the user switched off one way (``c``, ``triton``, ``winograd``), or all of them (None)."""
    return "0" in words() or f"no-{way}" in words()


def is_forced(way: str) -> bool:
    """Return whether the user wants a way without a measurement."""
    return way in words()

"""The environment variable ``RCNN_FAST``, which switches optimisations off.

By default, the toolkit uses every optimisation where it helps. ``RCNN_FAST=0`` switches all of them off: networks stay
plain. A comma-separated list switches off some: ``no-c`` (compiled C code), ``no-triton`` (GPU kernels),
``no-winograd``. The word ``winograd`` uses Winograd convolutions without measuring their speed on this CPU first.
"""

import os
from functools import cache

WORDS = ("0", "no-c", "no-triton", "no-winograd", "winograd")


@cache
def words() -> frozenset[str]:
    """Return the words in ``RCNN_FAST``.

    Raises:
        ValueError: a word is not in :data:`WORDS`.
    """
    given = frozenset(filter(None, (word.strip() for word in os.environ.get("RCNN_FAST", "").split(","))))
    if unknown := given - set(WORDS) - {"1"}:
        raise ValueError(f"RCNN_FAST: unknown word {sorted(unknown)[0]!r}; use 0, or a list of {', '.join(WORDS[1:])}")
    return given


def is_off(way: str | None = None) -> bool:
    """Return whether the user switched off an optimisation (``c``, ``triton``, ``winograd``), or all of them (None)."""
    return "0" in words() or f"no-{way}" in words()


def is_forced(way: str) -> bool:
    """Return whether the user wants an optimisation without a measurement of its speed."""
    return way in words()

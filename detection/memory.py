"""The memory of this process: what it holds and keeps, and the garbage collector out of the way."""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SMALL, LARGE = 16e6, 100e6
"""Bytes of a feature map between which training keeps what is freed. At 139 MB (two images of 800 pixels in float32) a
step was 6 % faster with it, but held a fifth more; at 23 MB (320 pixels) it was up to 8 % faster and held as much or a
twelfth more; at 12 MB (in bfloat16) it was no faster, as glibc keeps most of that anyway, and held a tenth more."""


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Half a million dicts in a row make the collector look through all of them again and again (10x slower)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def keep_freed_memory(largest: float | None = None) -> bool:
    """Let glibc keep what is freed for what comes next, where PyTorch computes on the processor.

    It would give every tensor above 32 MB back to the system, which clears each page before it hands it out again:
    that took a tenth of a training step and a fifth of an inference. A process that was started with settings of its
    own (``MALLOC_...``) is left as it is. To be called before there is much in memory.

    Args:
        largest: bytes of the largest tensors that training holds on to; nothing is done unless they are between
            :data:`SMALL` and :data:`LARGE`. None for inference, which holds on to little.

    Returns:
        Whether it was done; nothing else than glibc has the switch.
    """
    if largest is not None and not SMALL <= largest <= LARGE:
        return False
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    at_most_mapped, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    return bool(mallopt(at_most_mapped, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))


def finest_map(images: int, short: float, long: float, channels: int, precision: str) -> float:
    """Bytes of a pyramid's map at stride 4, the largest tensor of a training step.

    Args:
        images: in a batch.
        short, long: sides of an image in pixels.
        precision: with 16 in its name if numbers have 16 bits.
    """
    return images * short * long / 4**2 * channels * (2 if "16" in precision else 4)


def resident() -> int:
    """Bytes that this process holds now (Linux)."""
    return _bytes("VmRSS")


def most_resident() -> int:
    """Bytes that this program held at most (Linux).

    ``getrusage`` would also count what the process held that started this one.
    """
    return _bytes("VmHWM")


def _bytes(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(name)).split()[1])

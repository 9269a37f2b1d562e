"""The memory of this process: what it holds, and the garbage collector out of the way where very much is made."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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

"""The memory of this process: what it holds and keeps, and the garbage collector out of the way.

Imports nothing that takes long, as a program may have to begin again (:func:`restart_with_glibc_setting`).
"""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator, Sequence
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


def restart_with_glibc_setting() -> None:
    """Start this program again, once, with a setting of glibc's that is read when a process begins.

    PyTorch aligns each tensor to 64 bytes. glibc keeps the 50 bytes or so that are cut off around it in a cache for
    small objects. Free memory on both sides of such a piece cannot join, and the next large tensor takes new memory:
    after 36 training steps of eight sizes (256 to 480 pixels) a process held 2.7 GB. Without the cache it held 1.6 GB,
    at the same speed.

    Does nothing where :func:`glibc_setting` is empty, or where another program runs this one, such as a notebook, a
    debugger or a profiler. The process id stays the same. Call it before anything else is done or imported.
    """
    settings, debugged = glibc_setting(), sys.gettrace() is not None or "pydevd" in sys.modules
    if settings and sys.executable and not debugged and _began_with(sys.orig_argv, sys.argv):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | settings)


def _began_with(command: Sequence[str], program: Sequence[str]) -> bool:
    """Whether an interpreter's command line begins this program, with nothing but options before it."""
    if command[1:3] == ["-m", "detection"]:
        return True
    place = len(command) - len(program)
    return command[place:] == program and all(option.startswith("-") for option in command[1:place])


def glibc_setting() -> dict[str, str]:
    """The environment variable that switches glibc's cache of small objects off.

    Empty with another C library or a GPU, where it is of no use, and where the user has set such variables.
    """
    if _is_left_alone("MALLOC_", "GLIBC_", "LD_PRELOAD"):
        return {}
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, OSError, ValueError):  # another C library
        glibc = None
    computes_elsewhere = Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()
    return {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"} if glibc and not computes_elsewhere else {}


def begin_training() -> bool:
    """Until the first step is over, let each tensor above a megabyte come and go with pages of its own.

    The first step makes what stays, such as the momentum and what oneDNN keeps of each convolution. Between tensors
    that go it would stand in the way of those of all other steps: at 320 pixels a tenth of the memory of a training
    step, at 800 a twentieth. Left as it is where :func:`keep_freed_memory` does nothing.
    """
    return _set_glibc((_MMAP_THRESHOLD, 1 << 20))


def go_on_training(largest: float) -> bool:
    """After the first step: :func:`keep_freed_memory`, where that pays.

    Args:
        largest: bytes of the largest tensors that training holds on to; between :data:`SMALL` and :data:`LARGE` it
            pays. Otherwise glibc gives back what is larger than 32 MB, as it does when it is not told.
    """
    if SMALL <= largest <= LARGE:
        return keep_freed_memory()
    return _set_glibc((_MMAP_THRESHOLD, _PIECE), (_TRIM_THRESHOLD, 2 * _PIECE))


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed for what comes next, where PyTorch computes on the processor.

    It would give every tensor above 32 MB back to the system, which clears each page before it hands it out again:
    that took a tenth of a training step and a fifth of an inference. A process that was started with settings of its
    own (``MALLOC_...``) is left as it is.

    Returns:
        Whether it was done; nothing else than glibc has the switch.
    """
    return _set_glibc((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))


def keep_freed_pieces() -> bool:
    """As :func:`keep_freed_memory`, of pieces below 32 MB and up to 256 MB: for workers, of which there may be many."""
    return _set_glibc((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, _PIECE), (_TRIM_THRESHOLD, 8 * _PIECE))


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of malloc.h
_PIECE = 32 << 20  # as far as glibc raises the threshold of mapping by itself


def _set_glibc(*settings: tuple[int, int]) -> bool:
    if _is_left_alone("MALLOC_"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*setting) for setting in settings)


def _is_left_alone(*settings: str) -> bool:
    """Whether this is not Linux, or the environment has settings of the user's own that begin so."""
    return sys.platform != "linux" or any(name.startswith(settings) for name in os.environ)


def finest_map(images: int, short: float, long: float, channels: int, precision: str) -> float:
    """Bytes of a pyramid's map at stride 4, the largest tensor of a training step.

    Args:
        images: in a batch.
        short, long: sides of an image in pixels.
        precision: with 16 in its name if numbers have 16 bits.
    """
    return images * short * long / 4**2 * channels * (2 if "16" in precision else 4)


def resident() -> int:
    """Return the bytes that this process holds now; without ``/proc``, what it held at most."""
    return _bytes("VmRSS", "WorkingSetSize")


def most_resident() -> int:
    """Return the bytes that this program held at most.

    ``getrusage`` would also count what the process held that started this one; only macOS uses it.
    """
    return _bytes("VmHWM", "PeakWorkingSetSize")


def _bytes(linux: str, windows: str) -> int:
    """Return a number that the system keeps of this process, by the names that it has there."""
    if sys.platform == "win32":
        return _of_windows(windows)
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(linux)).split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _of_windows(name: str) -> int:
    class Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of psapi.h."""

        _fields_ = [
            ("cb", ctypes.c_uint32),
            ("PageFaultCount", ctypes.c_uint32),
            ("PeakWorkingSetSize", ctypes.c_size_t),
            ("WorkingSetSize", ctypes.c_size_t),
            *((f"Other{number}", ctypes.c_size_t) for number in range(6)),
        ]

    counters = Counters(cb=ctypes.sizeof(Counters))
    kernel = ctypes.CDLL("kernel32")
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
    kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
    return int(getattr(counters, name))

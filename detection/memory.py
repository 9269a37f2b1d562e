"""The memory of this process: settings of glibc, resident memory, and pauses of the garbage collector.

This module imports nothing slow, as a program may have to start again (:func:`restart_with_glibc_setting`).
"""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SMALL, LARGE = 16e6, 100e6
"""Training keeps freed memory if its largest feature map has a size, in bytes, between these two.

The reasons are measurements. At 139 MB (two images of 800 pixels in float32), steps were 6% faster but used a fifth
more memory. At 23 MB (320 pixels), they were up to 8% faster and used at most a twelfth more. At 12 MB (bfloat16), they
were not faster, as glibc keeps most of that memory anyway, and used a tenth more."""


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector: with half a million new dicts, it would scan all of them repeatedly (10x slower)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def restart_with_glibc_setting() -> None:
    """Start this program again, once, with a setting that glibc reads when a process starts.

    PyTorch aligns each tensor to 64 bytes. glibc keeps the remainders, about 50 bytes each, in its cache for small
    objects. They prevent free blocks on both sides from merging (heap fragmentation), so the next large tensor needs
    new memory. After 36 training steps of eight sizes (256 to 480 pixels) a process used 2.7 GB, without the cache 1.6
    GB at the same speed.

    The function does nothing if :func:`glibc_setting` is empty, or if another program runs this one, such as a
    notebook, a debugger or a profiler. The process ID stays the same. Call it before all other work and imports.
    """
    settings, debugged = glibc_setting(), sys.gettrace() is not None or "pydevd" in sys.modules
    if settings and sys.executable and not debugged and _began_with(sys.orig_argv, sys.argv):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | settings)


def _began_with(command: Sequence[str], program: Sequence[str]) -> bool:
    """Return whether a Python command line starts this program, with only options before it."""
    if command[1:3] == ["-m", "detection"]:
        return True
    place = len(command) - len(program)
    return command[place:] == program and all(option.startswith("-") for option in command[1:place])


def glibc_setting() -> dict[str, str]:
    """Return the environment variable that switches off glibc's cache for small objects.

    The result is empty with another C library or a GPU, where it does not help, and if the user set such variables.
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
    """Allocate each tensor above one megabyte with mmap during the first training step; return whether this is set.

    The first step creates long-lived buffers, such as the momentum and oneDNN's caches of convolutions. Between
    temporary tensors, they would fragment the heap. This would cost a tenth of the memory of a training step at 320
    pixels, and a twentieth at 800. It does nothing where :func:`keep_freed_memory` does nothing.
    """
    return _set_glibc((_MMAP_THRESHOLD, 1 << 20))


def go_on_training(largest: float) -> bool:
    """Call :func:`keep_freed_memory` after the first step, if that helps; return whether a setting changed.

    Args:
        largest: bytes of the largest tensors of training. Keeping memory helps between :data:`SMALL` and :data:`LARGE`.
            Otherwise glibc returns blocks above 32 MB to the system, which is its default.
    """
    if SMALL <= largest <= LARGE:
        return keep_freed_memory()
    return _set_glibc((_MMAP_THRESHOLD, _PIECE), (_TRIM_THRESHOLD, 2 * _PIECE))


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for later tensors, if PyTorch computes on the CPU.

    By default, glibc returns every tensor above 32 MB to the system, which clears each page before its next use. That
    took a tenth of a training step and a fifth of an inference. The function does not change a process that was
    started with the user's own settings (``MALLOC_...``).

    Returns:
        Whether the setting changed; only glibc supports it.
    """
    return _set_glibc((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))


def keep_freed_pieces() -> bool:
    """Keep freed blocks below 32 MB, up to 256 MB in total; for data-loader workers, of which there may be many."""
    return _set_glibc((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, _PIECE), (_TRIM_THRESHOLD, 8 * _PIECE))


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of malloc.h
_PIECE = 32 << 20  # largest mmap threshold that glibc sets by itself


def _set_glibc(*settings: tuple[int, int]) -> bool:
    if _is_left_alone("MALLOC_"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*setting) for setting in settings)


def _is_left_alone(*settings: str) -> bool:
    """Return whether this is not Linux, or the user set an environment variable with one of these prefixes."""
    return sys.platform != "linux" or any(name.startswith(settings) for name in os.environ)


def finest_map(images: int, short: float, long: float, channels: int, precision: str) -> float:
    """Return the bytes of a pyramid's map at stride 4, the largest tensor of a training step.

    Args:
        images: images per batch.
        short, long: sides of an image in pixels.
        channels: channels of the pyramid.
        precision: name of the precision, which contains ``16`` for 16-bit numbers.
    """
    return images * short * long / 4**2 * channels * (2 if "16" in precision else 4)


def resident() -> int:
    """Return the current resident memory of this process in bytes; without ``/proc``, its peak."""
    return _bytes("VmRSS", "WorkingSetSize")


def most_resident() -> int:
    """Return the peak resident memory of this program in bytes.

    Only macOS uses ``getrusage``, which also counts the memory of the process that started this one.
    """
    return _bytes("VmHWM", "PeakWorkingSetSize")


def _bytes(linux: str, windows: str) -> int:
    """Return a memory figure of this process, by its name on Linux and on Windows."""
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

"""C for this very processor, compiled in under a second by each process that wants it, where there is a compiler.

Nothing needs it. Elsewhere, or where nobody wants it (``RCNN_COMPILED=0`` in the environment), operations of PyTorch
and NumPy do the same in more time.
"""

import ctypes
import os
import platform
import shlex
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

chosen = os.environ.get("RCNN_COMPILED")
"""By the user: 0 asks for no C."""

_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")
_SECONDS = 60
"""After which a compiler is given up."""
_warned = False


def library(source: Path, *flags: str) -> ctypes.CDLL | None:
    """What a C file compiles to, with more flags for the compiler, or None where that cannot be had.

    Only Linux on x86-64 with AVX2 is asked, and only beside the OpenMP that PyTorch from PyPI brings: threads of two of
    them would be in each other's way. The compiler is ``cc``, or what the environment's ``CC`` says.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    here = platform.system() == "Linux" and platform.machine() == "x86_64" and capability.startswith("AVX")
    if chosen == "0" or not here or not _shares_openmp():
        return None
    with tempfile.TemporaryDirectory(prefix="rcnn-toolkit-") as folder:
        there = Path(folder) / f"{source.stem}.so"
        command = [*shlex.split(os.environ.get("CC", "cc")), *_FLAGS, *flags, str(source), "-o", str(there)]
        try:
            subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS)
            return ctypes.CDLL(str(there))
        except (OSError, subprocess.SubprocessError) as error:  # no compiler, an old one, a folder that runs nothing
            told = getattr(error, "stderr", None) or str(error).encode()
            _warn(next(iter(told.decode(errors="replace").strip().splitlines()), "no reason given"))
            return None


def call(library: ctypes.CDLL | None, name: str, *arguments: object) -> None:
    """A function of a library without a result.

    Args:
        arguments: whole numbers become ``int64_t``, others ``double``, tensors and arrays the place of their numbers,
            structures their own, None is NULL.
    """
    getattr(library, name)(*map(_argument, arguments))


def _argument(value: object) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, ctypes.Structure):
        return ctypes.byref(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    return ctypes.c_void_p(None) if value is None else ctypes.c_int64(value)  # type: ignore[arg-type]


def _warn(why: str) -> None:
    """Once, however many files there are."""
    global _warned
    if not _warned:
        warnings.warn(
            f"C cannot be compiled here ({why}); slower ways are taken. It needs a C compiler, as in Debian's package "
            "gcc. RCNN_COMPILED=0 in the environment asks for none",
            stacklevel=3,
        )
    _warned = True


def _shares_openmp() -> bool:
    """Whether PyTorch's is GNU's, which the library then finds by its name."""
    return "/libgomp.so.1\n" in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")

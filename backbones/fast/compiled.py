"""C for this very processor, compiled in under a second by each process that wants it, where there is a compiler.

Nothing needs it. Elsewhere, or where nobody wants it (``RCNN_FAST=no-c`` in the environment), operations of PyTorch
and NumPy do the same in more time. Whatever is wrong with the compiler, its folder or what it writes is one warning.
"""

import ctypes
import os
import platform
import shlex
import signal
import subprocess
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbones.fast import switch
from backbones.fast.shared_object import is_whole

_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")
_SECONDS = 60
"""After which a compiler is given up."""
_warned = False


def library(source: Path, *flags: str, functions: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """What a C file compiles to, with more flags for the compiler, or None where that cannot be had.

    Only Linux on x86-64 with AVX2 is asked, and only beside the OpenMP that PyTorch from PyPI brings: threads of two of
    them would be in each other's way. The compiler is ``cc``, or what the environment's ``CC`` says.

    Args:
        functions: names that the library must have.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    here = platform.system() == "Linux" and platform.machine() == "x86_64" and capability.startswith("AVX")
    if switch.is_off("c") or not here or not _shares_openmp():
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="rcnn-toolkit-", ignore_cleanup_errors=True) as folder:
            there = Path(folder) / f"{source.stem}.so"
            _run([*_compiler(), *_FLAGS, *flags, str(source), "-o", str(there)], Path(folder))
            return _loaded(there, functions)
    except OSError as error:
        _warn(str(error))
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


def _compiler() -> list[str]:
    """The words of the environment's ``CC``.

    Raises:
        OSError: a quote in it has no end.
    """
    named = os.environ.get("CC", "")
    try:
        return shlex.split(named) or ["cc"]
    except ValueError as error:
        raise OSError(f"the environment's CC is {named}: {error}") from error


def _run(command: list[str], folder: Path) -> None:
    """Run a compiler in a process group of its own, which ends with it, whatever else it started.

    Raises:
        OSError: it cannot be started, fails, or takes more than :data:`_SECONDS`; with what it said.
    """
    said = folder / "said"  # a file, as a pipe would wait for every process that holds its other end
    with open(said, "wb") as output:
        compiler = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = compiler.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise OSError(f"{command[0]} took more than {_SECONDS} s") from None
        finally:
            if hasattr(os, "killpg"):
                with suppress(ProcessLookupError):
                    os.killpg(compiler.pid, signal.SIGKILL)
            else:  # Windows
                compiler.kill()
            compiler.wait()
    if code:
        with open(said, "rb") as words:
            lines = words.read(4096).decode(errors="replace").strip().splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "")
        raise OSError(first or f"{command[0]} ended with exit code {code} and said nothing")


def _loaded(path: Path, functions: tuple[str, ...]) -> ctypes.CDLL:
    """Load a library.

    Raises:
        OSError: there is none, or it is not whole, or a function is missing.
    """
    if not path.is_file():
        raise OSError("the compiler wrote no library")
    if not is_whole(path):  # the system's loader would be killed at a missing page
        raise OSError("the compiler wrote a library that is empty, cut short or no library")
    found = ctypes.CDLL(str(path))
    missing = [name for name in functions if not hasattr(found, name)]
    if missing:
        raise OSError(f"the compiled library has no function {', '.join(missing)}")
    return found


def _warn(why: str) -> None:
    """Once, however many files there are, and on the first of several ranks."""
    global _warned
    if not _warned and os.environ.get("LOCAL_RANK", "0") == "0":
        why = "".join(letter if letter.isprintable() else "?" for letter in why)
        why = why if len(why) <= 160 else why[:159] + "…"
        warnings.warn(
            f"C cannot be compiled here ({why}); the toolkit uses slower ways instead. It needs a C compiler, as in "
            "Debian's package gcc; the environment variable CC names another one. RCNN_FAST=no-c asks for none",
            stacklevel=3,
        )
    _warned = True


def _shares_openmp() -> bool:
    """Whether PyTorch's is GNU's, which the library then finds by its name."""
    try:
        return "/libgomp.so.1\n" in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False

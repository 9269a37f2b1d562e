"""Compile C code for the CPU of this machine, in under a second; later processes load the kept library.

The C code is optional. Without a compiler, or with ``RCNN_FAST=no-c`` in the environment, slower operations of PyTorch
and NumPy compute the same results. Any problem with the compiler, its folder or its output gives a single warning.
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

from backbones.fast import kept_libraries, switch
from backbones.fast.shared_object import is_complete

_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")
_SECONDS = 60
"""Time limit for the compiler."""
_warned = False


def library(source: Path, *flags: str, functions: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """Compile a C file and load it; return None if that is not possible.

    This needs Linux on x86-64 with AVX2, and the OpenMP library that PyTorch from PyPI uses: threads of two OpenMP
    libraries would compete. The compiler is ``cc``, or the one that the environment variable ``CC`` names.

    Args:
        source: the C file.
        flags: additional flags for the compiler.
        functions: names of functions that the library must have.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    here = platform.system() == "Linux" and platform.machine() == "x86_64" and capability.startswith("AVX")
    if switch.is_off("c") or not here or not _shares_openmp():
        return None
    try:
        command = [*_compiler(), *_FLAGS, *flags]
        key = kept_libraries.key_of(command, source)
        if kept := kept_libraries.find(key):
            with suppress(OSError):
                return _loaded(kept, functions)
        with tempfile.TemporaryDirectory(prefix="rcnn-toolkit-", ignore_cleanup_errors=True) as folder:
            there = Path(folder) / f"{source.stem}.so"
            _run([*command, str(source), "-o", str(there)], Path(folder))
            found = _loaded(there, functions)
            kept_libraries.keep(there, key)
            return found
    except OSError as error:
        _warn(str(error))
        return None


def call(library: ctypes.CDLL | None, name: str, *arguments: object) -> None:
    """Call a function of a library that returns nothing.

    Args:
        arguments: integers become ``int64_t``, floats ``double``. Tensors, arrays and structures become pointers to
            their data, and None becomes NULL.
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
    """Return the compiler's command: the words of the environment variable ``CC``, or ``cc``.

    Raises:
        OSError: ``CC`` has an unclosed quote.
    """
    named = os.environ.get("CC", "")
    try:
        return shlex.split(named) or ["cc"]
    except ValueError as error:
        raise OSError(f"the environment variable CC is {named}: {error}") from error


def _run(command: list[str], folder: Path) -> None:
    """Run a compiler in its own process group, and end all processes of that group afterwards.

    Raises:
        OSError: the compiler cannot start, fails, or takes more than :data:`_SECONDS`; with its first error line.
    """
    log = folder / "compiler.log"  # a file: a pipe would wait for every process that keeps the other end open
    with open(log, "wb") as output:
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
        with open(log, "rb") as file:
            lines = file.read(4096).decode(errors="replace").strip().splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "")
        raise OSError(first or f"{command[0]} ended with exit code {code} and without a message")


def _loaded(path: Path, functions: tuple[str, ...]) -> ctypes.CDLL:
    """Load a library.

    Raises:
        OSError: the file does not exist or is incomplete, or a function is missing.
    """
    if not path.is_file():
        raise OSError("the compiler wrote no library")
    if not is_complete(path):  # loading a truncated library would kill the process
        raise OSError("the compiler wrote an incomplete library")
    found = ctypes.CDLL(str(path))
    missing = [name for name in functions if not hasattr(found, name)]
    if missing:
        raise OSError(f"the compiled library has no function {', '.join(missing)}")
    return found


def _warn(why: str) -> None:
    """Warn once per process, on rank 0 only."""
    global _warned
    if not _warned and os.environ.get("LOCAL_RANK", "0") == "0":
        why = "".join(letter if letter.isprintable() else "?" for letter in why)
        why = why if len(why) <= 160 else why[:159] + "…"
        warnings.warn(
            f"Could not compile C code ({why}); using slower PyTorch code instead. To fix this, install a C compiler "
            "(Debian, Ubuntu: apt install gcc) or name one in the environment variable CC. To silence this warning, "
            "set RCNN_FAST=no-c",
            stacklevel=3,
        )
    _warned = True


def _shares_openmp() -> bool:
    """Return whether PyTorch uses GNU's OpenMP library, which the compiled code then uses, too."""
    try:
        return "/libgomp.so.1\n" in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False

"""Keep compiled libraries for later processes, in ``~/.cache/rcnn-toolkit/compiled``, or below ``XDG_CACHE_HOME``.

A kept library serves only the same source, command, compiler file and CPU. Its name holds the digest of its content, so
that a damaged file is not loaded. Only folders that belong to the user, and that nobody else can write to, are used.
Without such a folder, each process compiles for itself.
"""

import hashlib
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def key_of(command: Sequence[str], source: Path) -> str:
    """Return a digest of everything that decides the content of a library.

    Args:
        command: the compiler and its flags, without the names of files.
        source: the C file.

    Raises:
        OSError: the source cannot be read.
    """
    digest = hashlib.sha256(source.read_bytes())
    for part in (*command, _state_of(command[0]), _cpu()):
        digest.update(b"\0" + part.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def find(key: str) -> Path | None:
    """Return the kept library of a key, or None; its content has been checked."""
    folder = _folder()
    if folder is None:
        return None
    with suppress(OSError):
        for path in sorted(folder.glob(f"{key}-*.so")):
            if path.stem == _name(key, path.read_bytes()):
                return path
    return None


def keep(library: Path, key: str) -> None:
    """Copy a library into the user's folder; do nothing where that is not possible.

    The copy appears atomically, even if several processes write it at the same time.
    """
    folder = _folder()
    if folder is None:
        return
    with suppress(OSError):
        content = library.read_bytes()
        handle, temporary = tempfile.mkstemp(dir=folder)
        try:
            with open(handle, "wb") as file:
                file.write(content)
            os.replace(temporary, folder / f"{_name(key, content)}.so")
        except BaseException:
            os.unlink(temporary)
            raise


def _name(key: str, content: bytes) -> str:
    return f"{key}-{hashlib.sha256(content).hexdigest()[:32]}"


def _folder() -> Path | None:
    """Return the folder, made if necessary; None if it is not safe to use or cannot be made."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The specification says to ignore relative paths.
        base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
        folder = base / "rcnn-toolkit" / "compiled"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return None
    others = state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if state.st_uid == os.getuid() and not others else None


def _state_of(program: str) -> str:
    """Return the path, size and time of a program's file; an update of the compiler changes them."""
    found = shutil.which(program)
    if found is None:
        return program
    path = os.path.realpath(found)
    state = os.stat(path)
    return f"{path} {state.st_size} {state.st_mtime_ns}"


def _cpu() -> str:
    """Return what ``-march=native`` depends on: the model and the instruction sets of the CPU."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
        kept = ("vendor_id", "cpu family", "model", "stepping", "flags")
        return "\n".join(line for line in lines if line.startswith(kept))
    return platform.processor()

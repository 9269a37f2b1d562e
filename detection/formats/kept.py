"""A cache for converted data sets: one folder per data set, valid until the source files change."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from detection.documents import read_json

VERSION = 1
"""Version of the cached files. Increase it to invalidate all of them."""

NOTE = "made.json"
"""File in each folder with the return value of its maker. A folder without it is incomplete."""


def default_cache() -> Path:
    """Return the folder of converted data sets: ``~/.cache/rcnn-toolkit/data``, or below ``XDG_CACHE_HOME``."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says to ignore relative paths.
    base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return base / "rcnn-toolkit" / "data"


def fingerprint(paths: Iterable[Path]) -> str:
    """Return a digest of paths, sizes and times; it changes when a file is added, removed or written."""
    digest = hashlib.sha256()
    for path in sorted({os.path.abspath(path) for path in paths}):
        try:
            status = os.stat(path)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "absent"
        digest.update(f"{path}\0{state}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def kept(cache: Path, key: Any, make: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any], bool]:
    """Return the cached folder for a key; call ``make`` to fill it if it does not exist yet.

    The folder appears atomically, even if several processes create it at the same time.

    Args:
        cache: folder of the cache.
        key: everything that the files depend on, as JSON values.
        make: function that writes files into an empty folder. It returns a dict of JSON values, with the names of the
            files as ``files``.

    Returns:
        The folder, the return value of ``make``, and whether the folder existed already.

    Raises:
        OSError: the cache cannot be written.
    """
    text = json.dumps([VERSION, key], sort_keys=True)
    folder = cache / hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    if (note := _note(folder)) is not None:
        return folder, note, True
    made = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=cache, prefix=f".{folder.name}."))
        note = make(made)
        write_json(note, made / NOTE)
        if folder.exists() and _note(folder) is None:  # incomplete: somebody has deleted files in it
            shutil.rmtree(folder)
        made.rename(folder)
    except OSError as error:
        if (other := _note(folder)) is None:
            raise OSError(
                f"{cache}: cannot write the converted data set ({error.strerror or error}); set XDG_CACHE_HOME to a "
                "writable folder with free space"
            ) from error
        note = other  # another process was faster
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
    return folder, note, False


def write_json(content: Any, path: Path) -> None:
    """Write a JSON file. It may contain NaN and Infinity, which the annotation reader accepts."""
    path.write_text(json.dumps(content), encoding="utf-8")


def _note(folder: Path) -> dict[str, Any] | None:
    """Return the saved return value of a folder's maker; None if the folder is incomplete."""
    if not (folder / NOTE).is_file():
        return None
    try:
        note = read_json(folder / NOTE)
    except ValueError:
        return None
    files = note.get("files") if isinstance(note, dict) else None
    complete = isinstance(files, list) and all((folder / str(name)).is_file() for name in files)
    return note if complete else None

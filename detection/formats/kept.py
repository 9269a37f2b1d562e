"""Files that were made from others, kept until those change: a folder of the cache for each."""

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
"""Of what is written here; a change of it makes all files anew."""

NOTE = "made.json"
"""File in each folder with what its maker returned; where it is missing, the folder is not complete."""


def default_cache() -> Path:
    """Return the folder of converted data sets: ``~/.cache/rcnn-toolkit/data``, or below ``XDG_CACHE_HOME``."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says to ignore relative paths.
    base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return base / "rcnn-toolkit" / "data"


def fingerprint(paths: Iterable[Path]) -> str:
    """Return a digest that changes when a file is added, removed or written: of paths, sizes and times."""
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
    """Return the folder of a key, which ``make`` fills if it is not there yet.

    The folder appears complete or not at all, also when several processes make it at once.

    Args:
        key: what the files depend on, as values that JSON can hold.
        make: writes files into an empty folder, and returns a dict with their names as ``files``, and what else is to
            be known of them, as values that JSON can hold.

    Returns:
        The folder, what ``make`` returned, and whether the folder was there already.

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
        if folder.exists() and _note(folder) is None:  # damaged, as by somebody who tidied up
            shutil.rmtree(folder)
        made.rename(folder)
    except OSError as error:
        if (other := _note(folder)) is None:
            raise OSError(
                f"{cache}: the converted data set cannot be kept there ({error.strerror or error}); set XDG_CACHE_HOME "
                "to a folder with free space that can be written"
            ) from error
        note = other  # another process was faster
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
    return folder, note, False


def write_json(content: Any, path: Path) -> None:
    """Write a JSON file. Numbers that are not finite become NaN, which the reader of annotations knows."""
    path.write_text(json.dumps(content), encoding="utf-8")


def _note(folder: Path) -> dict[str, Any] | None:
    """What was kept with a folder; None if it is not complete."""
    if not (folder / NOTE).is_file():
        return None
    try:
        note = read_json(folder / NOTE)
    except ValueError:
        return None
    files = note.get("files") if isinstance(note, dict) else None
    complete = isinstance(files, list) and all((folder / str(name)).is_file() for name in files)
    return note if complete else None

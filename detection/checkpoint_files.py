"""Files of checkpoints: written whole or not at all, and read without running code."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from backbones import torch_files
from detection.data.errors import first_line
from detection.home import with_home


def write_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a file that is, whatever happens, either the old one or the new one, and complete.

    Raises:
        OSError: as :func:`replacing`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    with replacing(path) as file:
        torch.save(dict(content), file)
    if os.name == "posix":  # the new name itself must reach the disk, too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when it is complete and on the disk.

    It lies beside its place, since a move from another file system is a copy that can be cut off.

    Raises:
        OSError: the disk is full, there is no such folder, ...; in a line, with the path and the system's reason.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        # torch.save closes its archive after a failed write, and that error hides the system's.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        kept = "; the older file is whole" if path.exists() else ""
        raise OSError(f"{path}: cannot be written ({reason.strerror or reason}){kept}") from reason
    finally:
        with suppress(OSError):  # it is there only if writing has failed
            partial.unlink()


def sweep(folder: Path, name: str = "*") -> None:
    """Remove what a process that was killed left of a checkpoint; nobody else may be writing one there."""
    for partial in folder.glob(f".{name}.*.partial"):
        partial.unlink(missing_ok=True)


def read_checkpoint(
    path: str | Path, map_location: Any = "cpu", look: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Read a checkpoint; never runs code from it.

    Args:
        look: called with the outline (:func:`outline_checkpoint`) before any tensor is read; may raise.

    Raises:
        ValueError: no such file, one that is cut off, damaged or no checkpoint, or one with more than tensors and plain
            values.
    """
    path = with_home(path)
    outlined = outline_checkpoint(path)
    if look is not None:
        look(outlined)
    try:
        content: dict[str, Any] = torch_files.load(path, map_location)
    except torch_files.DamagedError as error:
        raise ValueError(f"{path}: {error}") from None
    except (torch_files.FileError, OSError) as error:
        raise _unreadable(path, error) from None
    return content


def outline_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint with its tensors on the meta device: shapes without numbers, and everything else.

    Raises:
        ValueError: as :func:`read_checkpoint`, but for damage to the tensors, which are not read.
    """
    path = with_home(path)
    if "://" in str(path):
        raise ValueError(f"{path}: a URL; download the file, and give its path")
    if Path(path).is_dir():
        raise ValueError(f"{path}: a folder; give a checkpoint in it, as {Path(path) / 'checkpoints' / 'last.ckpt'}")
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        content = torch_files.outline(path)
    except (torch_files.FileError, OSError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    return content


def _unreadable(path: str | Path, error: Exception) -> ValueError:
    reason = first_line(error)[:150]
    return ValueError(f"{path}: cut off, or no checkpoint of tensors and plain values alone ({reason})")

"""Write checkpoint files completely or not at all, and read them without running code."""

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
    """Write a checkpoint atomically: at any time, the file is either the complete old or the complete new one.

    Raises:
        OSError: the file cannot be written; the message names the path and the reason.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    with replacing(path) as file:
        torch.save(dict(content), file)
    if os.name == "posix":  # the new name of the file must also reach the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing, and move it to ``path`` when it is complete and on the disk.

    The temporary file is in the same folder, since a move from another file system is a copy, which can be interrupted.

    Raises:
        OSError: for example, the disk is full or the folder does not exist; the message is one line with the path and
            the system's reason.
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
        kept = "; the older file is intact" if path.exists() else ""
        raise OSError(f"{path}: cannot be written ({reason.strerror or reason}){kept}") from reason
    finally:
        with suppress(OSError):  # the file exists only if writing has failed
            partial.unlink()


def sweep(folder: Path, name: str = "*") -> None:
    """Remove partial checkpoints of killed processes; no other process may be writing one in this folder."""
    for partial in folder.glob(f".{name}.*.partial"):
        partial.unlink(missing_ok=True)


def read_checkpoint(
    path: str | Path, map_location: Any = "cpu", look: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    Args:
        path: file of the checkpoint.
        map_location: device of the tensors, as for ``torch.load``.
        look: function that gets the outline (:func:`outline_checkpoint`) before tensors are read; it may raise.

    Raises:
        ValueError: the file is missing, truncated, damaged or not a checkpoint, or it contains more than tensors and
            plain values.
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
    """Return a checkpoint with its tensors on the meta device: only their shapes and types, and all other entries.

    Raises:
        ValueError: as for :func:`read_checkpoint`, except for damaged tensors, whose content is not read.
    """
    path = with_home(path)
    if "://" in str(path):
        raise ValueError(f"{path}: is a URL; download the file, and give its path")
    if Path(path).is_dir():
        raise ValueError(
            f"{path}: is a folder; use a checkpoint in it, such as {Path(path) / 'checkpoints' / 'last.ckpt'}"
        )
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
    return ValueError(f"{path}: truncated, or not a checkpoint of only tensors and plain values ({reason})")

"""Check that all images of an annotation file exist."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from detection.data.names import advice, find_file, forget
from detection.wording import plural

if TYPE_CHECKING:
    from detection.data.dataset import CocoDataset


def check_images(dataset: "CocoDataset", remedy: str = "set the split's images folder", allowed: int = 0) -> None:
    """Check that every image file exists, without opening it, before a run needs it.

    The annotations' report counts the names that match a file only in another spelling.

    Args:
        dataset: its images.
        remedy: how the user can set another folder; part of the error message.
        allowed: number of images that may be missing.

    Raises:
        FileNotFoundError: more images are missing; the message has their number, the first one and a hint. Also if two
            names match the same file.
    """
    forget()
    # Listing a folder once is much faster than one system call per file.
    names: dict[Path, set[str]] = {}
    missing: list[tuple[Path, str]] = []
    spelled: dict[Path, int] = {}
    exact: set[Path] = set()
    for i in range(len(dataset)):
        path = dataset.named_path(i)
        if path is not None:
            if path.parent not in names:
                names[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
            if path.name in names[path.parent] or os.path.exists(path):
                exact.add(path)
                continue
        path, name = dataset.path(i), dataset.annotations.file_name(i)
        if not os.path.exists(path):
            missing.append((path, name))
            continue
        if path in spelled:
            raise _two_names(dataset, spelled[path], i, path)
        spelled[path] = i
        dataset.annotations.report.warn(find_file(dataset.image_root, name)[1], int(dataset.annotations.image_ids[i]))
    if len(missing) > allowed:
        path, name = missing[0]
        raise FileNotFoundError(
            f"{dataset.annotations.path}: {len(missing)} of {plural(len(dataset), 'image is', 'images are')} missing, "
            f"first {path}; {advice(dataset.image_root, name)}; correct the names, or {remedy}"
        )
    for path in exact & spelled.keys():
        first = next(i for i in range(len(dataset)) if dataset.named_path(i) == path)
        raise _two_names(dataset, first, spelled[path], path)


def _two_names(dataset: "CocoDataset", first: int, second: int, path: Path) -> FileNotFoundError:
    one, other = (dataset.annotations.file_name(i) for i in (first, second))
    return FileNotFoundError(
        f"{dataset.annotations.path}: file_name {one!a:.80} and {other!a:.80} both match {path}; give each its own "
        "file, or set the split's images folder to the folder that the names are relative to"
    )

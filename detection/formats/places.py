"""Output paths for the images of a data set."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from detection.foreign import shown


def slashed(name: str) -> str:
    """Replace the backslashes of Windows in a file name by slashes."""
    return name.replace("\\", "/")


def places(images: Iterable[Mapping[str, Any]], folder: Path, suffix: str) -> dict[Any, Path]:
    """Return, for each image ID, a path in the folder with the image's name and another suffix.

    Raises:
        ValueError: two images would get the same path, or a path would be outside the folder.
    """
    found: dict[Any, Path] = {}
    for image in images:
        name = slashed(image["file_name"])
        path = (folder / name).with_suffix(suffix)
        if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
            raise ValueError(
                f"image {shown(name)}: {shown(path, None)} would be outside {folder}; give file_name below the image "
                "folder"
            )
        found[image["id"]] = path
    check_apart((image["file_name"], found[image["id"]]) for image in images)
    return found


def check_apart(pairs: Iterable[tuple[str, Path]]) -> None:
    """Check that no two images use the same file.

    Args:
        pairs: names of images, and the paths of their files.

    Raises:
        ValueError: two images use the same file; the message has both names.
    """
    names: dict[str, str] = {}
    for name, path in pairs:
        other = names.setdefault(os.path.normpath(path), name)
        if other != name:
            raise ValueError(f"images {shown(other)} and {shown(name)} would share {shown(path, None)}; rename one")

"""Where the file of each image is."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def places(images: Iterable[Mapping[str, Any]], folder: Path, suffix: str) -> dict[Any, Path]:
    """By image id, a path in the folder that is named as the image but for its suffix.

    Raises:
        ValueError: two images would share one, or one would be outside the folder.
    """
    found: dict[Any, Path] = {}
    names: dict[Path, str] = {}
    for image in images:
        name = image["file_name"]
        path = (folder / name).with_suffix(suffix)
        normal = Path(os.path.normpath(path))
        if not normal.is_relative_to(os.path.normpath(folder)):
            raise ValueError(f"image {name}: {path} would be outside {folder}; give file_name below the image folder")
        if normal in names:
            raise ValueError(f"images {names[normal]} and {name} would share {path}; rename one")
        names[normal] = name
        found[image["id"]] = path
    return found

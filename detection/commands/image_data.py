"""Recognise data for a classifier or for a pretraining without labels.

A classifier takes class folders, a CSV file, or a detector's data, of which each object is a crop.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from detection.commands.settings import Pairs, open_and_print, settings_of_parts
from detection.data.signatures import SUFFIXES
from detection.home import with_home

VALIDATION = ("val", "valid", "validation")
FOR_DETECTORS = {"images", "labels", "annotations"}
"""Names of folders in a data set for detectors, which are no classes."""
LISTS = {".json", ".yaml", ".yml"}
"""Endings of files that list the images of a data set for detectors."""


def image_settings(path: str, val_fraction: float = 0.2, seed: int = 0) -> Pairs:
    """Return the settings of data for a classifier.

    Args:
        path: a folder with a folder of images for each class. It may also have ``train`` and ``val``, each with such
            folders. Or a CSV file with the columns file and label, or a data set of a detector.
        val_fraction: fraction of images for validation, if the data have no validation split.
        seed: seed of the random choice of these images.

    Raises:
        ValueError: the path does not exist, or has no known form.
    """
    place = Path(with_home(path))
    if not place.exists():
        raise ValueError(f"--data {path}: no such file or folder; check the path")
    fraction = [("--data.val_fraction", str(val_fraction))]
    if place.suffix.lower() == ".csv":
        return [("--data.root", str(place.parent)), *_splits({"train": (".", place.name)}), *fraction]
    if place.is_dir() and _has_classes(place / "train"):
        found = {"train": "train", "val": next((name for name in VALIDATION if (place / name).is_dir()), None)}
        found["test"] = "test" if _has_classes(place / "test") else None
        given = {split: (str(name), "") for split, name in found.items() if name is not None}
        return [("--data.root", path), *_splits(given), *fraction]
    if place.is_dir() and _has_classes(place):
        return [("--data.root", path), *_splits({"train": (".", "")}), *fraction]
    return settings_of_parts(path, open_and_print(path, ("train", "val"), val_fraction, seed))


def unlabelled_settings(path: str) -> Pairs:
    """Return the settings of data for a pretraining without labels.

    Args:
        path: a folder of images, which may be in folders. If it has ``train`` and ``val``, each with class folders,
            the labels of ``val`` judge the features. Or a data set of a detector, whose training images train.

    Raises:
        ValueError: the path does not exist, or has no known form.
    """
    place = Path(with_home(path))
    if not place.exists():
        raise ValueError(f"--data {path}: no such file or folder; check the path")
    if place.is_dir() and _has_classes(place / "train"):
        val = next((name for name in VALIDATION if _has_classes(place / name)), "")
        return [("--data.root", path), *_splits({"train": ("train", ""), "val": (val, "")}, ("train", "val"))]
    if place.is_dir() and (_has_classes(place) or _has_only_images(place)):
        return [("--data.root", path), *_splits({"train": (".", "")}, ("train", "val"))]
    parts = dict(settings_of_parts(path, open_and_print(path, ("train",))))
    return [("--data.root", path), ("--data.train", parts["--data.train"]), ("--data.val", "null")]


def _splits(found: dict[str, tuple[str, str]], names: Sequence[str] = ("train", "val", "test")) -> Pairs:
    """Return the settings of the splits, from their folders and files; null for those that do not exist."""
    pairs: Pairs = []
    for split in names:
        images, annotations = found.get(split, ("", ""))
        value = json.dumps({"images": images, "annotations": annotations}) if images else "null"
        pairs.append((f"--data.{split}", value))
    return pairs


def _has_only_images(folder: Path) -> bool:
    """Return whether a folder has images, and no file that could list them."""
    suffixes = {one.suffix.lower() for one in folder.iterdir()}
    return bool(suffixes & SUFFIXES) and not suffixes & LISTS


def _has_classes(folder: Path) -> bool:
    """Return whether a folder has folders, and none of the names of those in a data set for detectors."""
    if not folder.is_dir():
        return False
    inside = {one.name.lower() for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")}
    listed = any(one.suffix.lower() in LISTS for one in folder.iterdir())
    return bool(inside) and not inside & FOR_DETECTORS and not listed

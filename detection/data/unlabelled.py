"""Lists of images without labels: a folder, the images of a COCO file, or crops of its objects."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from detection.coco.annotations import Names
from detection.data.labelled import LabelledImages, images_below


def from_folder(folder: Path) -> LabelledImages:
    """List all images in a folder and its folders, in alphabetical order.

    Raises:
        ValueError: the folder does not exist, or has no images.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a folder of images")
    found = [path.relative_to(folder).as_posix() for path in images_below(folder)]
    if not found:
        raise ValueError(f"{folder}: has no images; add images, or give another folder")
    return LabelledImages(folder, folder, (), Names(found), np.zeros(len(found), dtype=np.int64))


def without_labels(images: LabelledImages) -> LabelledImages:
    """Return the same images or crops without classes; the label of each is 0."""
    return replace(images, classes=(), labels=np.zeros(len(images), dtype=np.int64))

"""Check the semantic maps of a split: their files, sizes and values, and how many pixels each class has."""

import numpy as np

from detection.data.dataset import CocoDataset
from detection.data.maps import Maps
from detection.doctor.findings import Diagnosis, Table
from detection.foreign import shown
from detection.structures import UNLABELLED
from detection.wording import plural

MOST_ERRORS = 20
"""Wrong files of a split that the doctor names; it counts the others."""
MOST_IMAGES = 500
"""Maps to read without ``--decode``, evenly spread over the split."""


def check_maps(diagnosis: Diagnosis, split: str, dataset: CocoDataset, maps: Maps, decode: bool = False) -> None:
    """Report maps that cannot be read, classes without pixels, and images without labels.

    Args:
        decode: read every map, not only a sample.
    """
    count = len(dataset) if decode else min(len(dataset), MOST_IMAGES)
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist() if len(dataset) else []
    pixels, images = (np.zeros(UNLABELLED + 1, dtype=np.int64) for _ in range(2))
    errors, blank = [], []
    for i in chosen:
        try:
            own = np.bincount(maps.read(i).ravel(), minlength=UNLABELLED + 1)
        except ValueError as error:
            errors.append(str(error))
            continue
        pixels += own
        images += own > 0
        if not own[:UNLABELLED].any():
            blank.append(int(dataset.annotations.image_ids[i]))
    for message in errors[:MOST_ERRORS]:
        diagnosis.add("error", split, message)
    if (more := len(errors) - MOST_ERRORS) > 0:
        diagnosis.add("error", split, plural(more, "more semantic map") + " cannot be read", count=more)
    if blank:
        what = plural(len(blank), "image has", "images have") + " no labelled pixel"
        diagnosis.add("warning", split, what, "the semantic head learns nothing from them", blank, len(blank))
    _classes(diagnosis, split, maps, pixels, images)


def _classes(diagnosis: Diagnosis, split: str, maps: Maps, pixels: np.ndarray, images: np.ndarray) -> None:
    names = [shown(name) for name in maps.categories.names]
    total = max(1, int(pixels.sum()))
    absent = [name for k, name in enumerate(names) if not pixels[k]]
    if absent:
        what = (
            plural(len(absent), "semantic class has", "semantic classes have") + f" no pixel: {', '.join(absent[:5])}"
        )
        diagnosis.add("warning" if split == "train" else "info", split, what, count=len(absent))
    rows: list[tuple[object, ...]] = []
    for k, name in enumerate(names):
        rows.append((name, int(images[k]), float(100 * pixels[k] / total)))
    rows.append(("without label", int(images[UNLABELLED]), float(100 * pixels[UNLABELLED] / total)))
    diagnosis.tables.append(Table(f"Semantic classes, {split}", ("class", "images", "% of pixels"), rows))

"""Replace IDs by consecutive numbers for the engines: images 1 to n and categories 1 to K.

hotcoco converts image IDs to float64, which is not exact above 2**53, and does not accept negative category IDs. So the
toolkit replaces IDs before it calls an engine, and restores them afterwards. Files contain the original IDs.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from detection.memory import no_garbage_collection

_OF_LVIS = ("neg_category_ids", "not_exhaustive_category_ids")


class Numbering:
    """Map the IDs of images and categories to numbers, and back.

    Numbers increase with the original IDs, so that an engine processes everything in the original order.

    Args:
        truth: from :func:`~detection.evaluation.ground_truth.clean_ground_truth`.
    """

    def __init__(self, truth: Mapping[str, Any]) -> None:
        self.image_ids = sorted(image["id"] for image in truth["images"])
        self.category_ids = sorted(category["id"] for category in truth["categories"])
        self._image = {id: number for number, id in enumerate(self.image_ids, 1)}
        self._category = {id: number for number, id in enumerate(self.category_ids, 1)}

    def images(self, image_ids: Iterable[int]) -> list[int]:
        """Return the numbers of images."""
        return [self._image[id] for id in image_ids]

    def truth(self, truth: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of a ground truth with numbers."""
        return {
            **truth,
            "images": self.image_entries(truth["images"]),
            "categories": self.category_entries(truth["categories"]),
            "annotations": self.entries(truth["annotations"]),
        }

    def image_entries(self, images: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return copies of image dicts with numbers, also in LVIS's lists of categories."""
        return [
            {**image, "id": self._image[image["id"]]}
            | {
                key: [self._category[id] for id in image[key] if id in self._category]
                for key in _OF_LVIS
                if key in image
            }
            for image in images
        ]

    def category_entries(self, categories: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return copies of category dicts with numbers."""
        return [{**category, "id": self._category[category["id"]]} for category in categories]

    def entries(self, entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return copies of annotations or results with numbers."""
        image, category = self._image, self._category
        with no_garbage_collection():
            return [
                {**one, "image_id": image[one["image_id"]], "category_id": category[one["category_id"]]}
                for one in entries
            ]

    def columns(self, image_ids: np.ndarray, category_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of image IDs and category IDs, (n,) int64 each; all IDs must be in the ground truth."""
        return _places(self.image_ids, image_ids), _places(self.category_ids, category_ids)


def _places(known: Sequence[int], ids: np.ndarray) -> np.ndarray:
    """Return the position of each ID in a sorted list, counted from 1."""
    return np.searchsorted(np.array(known, dtype=np.int64), ids) + 1

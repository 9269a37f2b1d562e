"""Dense numbers for the engines: images 1 to n and categories 1 to K.

hotcoco reads image ids as float64, which holds no whole number above 2**53 exactly, and takes no negative category id.
Ids are therefore replaced where data enter an engine, and put back where they leave it. Files hold the original ids.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from detection.memory import no_garbage_collection

_OF_LVIS = ("neg_category_ids", "not_exhaustive_category_ids")


class Numbering:
    """The numbers of the images and categories of a ground truth.

    Both follow the rising original ids, so that an engine meets them in the order that it would without numbers.

    Args:
        truth: from :func:`~detection.evaluation.ground_truth.clean_ground_truth`.
    """

    def __init__(self, truth: Mapping[str, Any]) -> None:
        self.image_ids = sorted(image["id"] for image in truth["images"])
        self.category_ids = sorted(category["id"] for category in truth["categories"])
        self._image = {id: number for number, id in enumerate(self.image_ids, 1)}
        self._category = {id: number for number, id in enumerate(self.category_ids, 1)}

    def images(self, image_ids: Iterable[int]) -> list[int]:
        """The numbers of images."""
        return [self._image[id] for id in image_ids]

    def truth(self, truth: Mapping[str, Any]) -> dict[str, Any]:
        """A ground truth with numbers; the original is not modified."""
        return {
            **truth,
            "images": self.image_entries(truth["images"]),
            "categories": self.category_entries(truth["categories"]),
            "annotations": self.entries(truth["annotations"]),
        }

    def image_entries(self, images: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Image dicts with numbers, and with those of LVIS's lists of categories."""
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
        """Category dicts with numbers."""
        return [{**category, "id": self._category[category["id"]]} for category in categories]

    def entries(self, entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Annotations or results with numbers."""
        image, category = self._image, self._category
        with no_garbage_collection():
            return [
                {**one, "image_id": image[one["image_id"]], "category_id": category[one["category_id"]]}
                for one in entries
            ]

    def columns(self, image_ids: np.ndarray, category_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) numbers of (n,) int64 ids, which must be those of the ground truth."""
        return _places(self.image_ids, image_ids), _places(self.category_ids, category_ids)


def _places(known: Sequence[int], ids: np.ndarray) -> np.ndarray:
    """(n,) where each id stands in a sorted list, from 1."""
    return np.searchsorted(np.array(known, dtype=np.int64), ids) + 1

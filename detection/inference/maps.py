"""The semantic map of one image, and its panoptic segments.

H x W image.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.categories import Categories
from detection.coco.panoptic import colours_of
from detection.ops.panoptic import Segment, panoptic_categories
from detection.visualize import tinted


@dataclass(frozen=True, eq=False, repr=False)
class PredictedMaps:
    """What a semantic head adds to a :class:`~detection.inference.prediction.Prediction`.

    Example:
        >>> found = predict(model, "street.jpg")  # doctest: +SKIP
        >>> found.maps.shares()  # doctest: +SKIP
        {'road': 0.61, 'sky': 0.39}
    """

    semantic: np.ndarray
    """(H, W) uint8: the semantic class of each pixel."""
    categories: Categories
    """Names and original IDs of the semantic classes."""
    ids: np.ndarray | None = None
    """(H, W) int32: the segment of each pixel, 0 for none; None for a Semantic FPN."""
    segments: tuple[Segment, ...] = ()
    """The segments of a Panoptic FPN, objects first."""
    things: Categories | None = None
    """The classes of objects of a Panoptic FPN."""

    def shares(self) -> dict[str, float]:
        """Return the fraction of the pixels of each semantic class that occurs, the most frequent first."""
        counts = np.bincount(self.semantic.ravel(), minlength=len(self.categories)) / self.semantic.size
        order = np.argsort(-counts, kind="stable")
        return {self.categories.names[k]: float(counts[k]) for k in order if counts[k]}

    def label_png(self) -> np.ndarray:
        """Return the map with the original IDs of the classes, (H, W) uint8, or uint16 if an ID needs it.

        Raises:
            ValueError: an ID does not fit into 16 bits.
        """
        ids = np.array(self.categories.ids, dtype=np.int64)
        if not 0 <= ids.min() <= ids.max() < 2**16:
            raise ValueError(f"labels: IDs from {ids.min()} to {ids.max()} do not fit into a PNG of 16 bits")
        return ids.astype(np.uint8 if ids.max() < 2**8 else np.uint16)[self.semantic]

    def panoptic_png(self) -> np.ndarray:
        """Return the segments in COCO's panoptic format, (H, W, 3) uint8 RGB; for a Panoptic FPN."""
        assert self.ids is not None, "this model predicts no segments"
        return colours_of(self.ids)

    def segments_info(self) -> list[dict[str, Any]]:
        """Return the segments as COCO's panoptic format describes them, with ``score`` for objects."""
        if self.ids is None or self.things is None:
            return []
        every, areas = panoptic_categories(self.things, self.categories), np.bincount(self.ids.ravel())
        found = []
        for one in self.segments:
            place = one.label if one.is_thing else len(self.things) + one.label - 1
            entry = {"id": one.id, "category_id": every.ids[place], "name": every.names[place]}
            entry |= {"isthing": int(one.is_thing), "area": int(areas[one.id])}
            found.append(entry | ({} if one.score is None else {"score": round(one.score, 5)}))
        return found

    def coco_categories(self) -> list[dict[str, Any]]:
        """Return the classes as COCO's panoptic format lists them."""
        things = self.things or Categories((), ())
        every = panoptic_categories(things, self.categories) if self.things else self.categories
        return [
            {"id": number, "name": name, "isthing": int(k < len(things))}
            for k, (number, name) in enumerate(zip(every.ids, every.names, strict=True))
        ]

    def drawn(self, image: np.ndarray) -> np.ndarray:
        """Return an image (H, W, 3) uint8 with the colours of its stuff, or of all classes for a Semantic FPN."""
        if self.ids is None:
            return tinted(image, self.semantic)
        stuff = np.zeros(1 + int(self.ids.max()), dtype=np.uint8)
        for one in self.segments:
            stuff[one.id] = 0 if one.is_thing else one.label
        # The colours of stuff come after those of the objects' classes.
        labels = stuff[self.ids]
        return tinted(image, np.where(labels > 0, labels + len(self.things or ()) - 1, 255).astype(np.uint8))

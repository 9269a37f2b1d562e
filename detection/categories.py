"""The classes of a data set, and the keypoints of their objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of a class."""

    names: tuple[str, ...] = ()
    edges: tuple[tuple[int, int], ...] = ()
    """Pairs of keypoints, counted from 0, to draw lines between."""

    @classmethod
    def from_coco(cls, category: Mapping[str, Any]) -> "Skeleton":
        """Read the ``keypoints`` and the ``skeleton`` of a category in a COCO file, which counts them from 1."""
        edges = category.get("skeleton") or ()
        return cls(tuple(category.get("keypoints") or ()), tuple((first - 1, second - 1) for first, second in edges))

    def to_coco(self) -> dict[str, Any]:
        """Return ``keypoints`` and ``skeleton`` for a category in a COCO file."""
        return {"keypoints": list(self.names), "skeleton": [[first + 1, second + 1] for first, second in self.edges]}


@dataclass(frozen=True)
class Categories:
    """The classes, in the order of their labels."""

    names: tuple[str, ...]
    ids: tuple[int, ...]
    """Original category IDs; result files contain ``ids[label]``."""
    skeletons: tuple[Skeleton, ...] = ()
    """The keypoints of each class; empty if no class has any."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def keypoints(self) -> int:
        """The largest number of keypoints of a class; 0 if no class has any."""
        return max((len(one.names) for one in self.skeletons), default=0)

    def label(self, category_id: int) -> int:
        """Return the label of an original category ID; raise a KeyError if it is unknown."""
        try:
            return self.ids.index(category_id)
        except ValueError:
            raise KeyError(category_id) from None

    @classmethod
    def from_coco(cls, categories: Sequence[Mapping[str, Any]]) -> "Categories":
        """Make categories from the ``categories`` of a COCO file, in the order of their IDs."""
        ordered = sorted(categories, key=lambda category: category["id"])
        skeletons = tuple(map(Skeleton.from_coco, ordered)) if any(c.get("keypoints") for c in ordered) else ()
        return cls(tuple(str(c["name"]) for c in ordered), tuple(int(c["id"]) for c in ordered), skeletons)

"""Which keypoint each one becomes in a flipped image: a left eye becomes a right one."""

from collections.abc import Sequence

import numpy as np

from detection.categories import Categories


def partners(categories: Categories, pairs: Sequence[Sequence[str]] | None = None) -> np.ndarray:
    """Return for each class which keypoint each one becomes in a flipped image.

    Args:
        categories: the classes.
        pairs: pairs of names that change places; None: names that differ only in ``left`` and ``right``, in any case.

    Returns:
        (K, P) int64; a keypoint without a partner becomes itself.

    Raises:
        ValueError: a pair has a name that no class has, or is no pair of two names.

    Example:
        >>> from detection.categories import Skeleton
        >>> skeletons = (Skeleton(("nose", "left_eye", "right_eye")),)
        >>> partners(Categories(("person",), (1,), skeletons)).tolist()
        [[0, 2, 1]]
    """
    known = {name for one in categories.skeletons for name in one.names}
    for pair in pairs or ():
        if len(pair) != 2 or not known.issuperset(pair):
            raise ValueError(f"data.flip_pairs: {list(pair)} are not two keypoints; the names are {sorted(known)}")
    found = np.tile(np.arange(categories.keypoints), (len(categories), 1))
    for label, skeleton in enumerate(categories.skeletons):
        for first, second in _pairs_of(skeleton.names) if pairs is None else pairs:
            if first in skeleton.names and second in skeleton.names:
                one, other = skeleton.names.index(first), skeleton.names.index(second)
                found[label, one], found[label, other] = other, one
    return found


def _pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    known = {name.lower(): name for name in names}
    mirrored = {name: known.get(name.lower().replace("left", "right")) for name in names if "left" in name.lower()}
    return [(name, other) for name, other in mirrored.items() if other is not None]

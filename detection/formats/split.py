"""Split a data set by image, for example into training and validation, with all classes in each part if possible.

The method is iterative stratification (Sechidis et al., On the stratification of multi-label data, 2011). It assigns
images of the rarest class first. Each image goes to the part that lacks most images of this class.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detection.coco.ids import identity
from detection.foreign import shown
from detection.wording import plural

EMPTY = "no object"
"""Pseudo-class of images without objects, so that the split distributes them as well."""


@dataclass
class _Group:
    """Images that must be in the same part."""

    place: bytes
    """Sort key for the order of assignment; it depends only on the file names and the seed."""
    images: list[Mapping[str, Any]]
    classes: Counter[Hashable]
    """For each class, the number of images with an object of it."""


def split(
    coco: Mapping[str, Any],
    fractions: Mapping[str, float],
    seed: int,
    together: Mapping[Any, Hashable] | None = None,
) -> dict[str, dict[str, Any]]:
    """Split the images of a COCO dict into parts. Each part has the annotations of its images, and all categories.

    The result depends on the file names and the seed, but not on the order of the entries. If no images must stay
    together, each part gets its fraction of the images, up to rounding, and at least one image.

    Args:
        coco: content of an annotation file; it is not modified.
        fractions: for each name of a part, its fraction of the images. The sum must be 1.
        seed: seed of the choice among images with the same classes.
        together: marks by image ID, as :func:`detection.coco.ids.identity` returns it. Images with the same mark get
            into the same part.

    Returns:
        A COCO dict for each name, with images and annotations in the order of their IDs. An annotation of an unlisted
        image goes to the largest part.

    Raises:
        ValueError: the sum of the fractions is not 1, or there are fewer images than parts.

    Example:
        >>> images = [{"id": k, "file_name": f"{k}.jpg", "height": 8, "width": 8} for k in range(10)]
        >>> coco = {"images": images, "annotations": [], "categories": []}
        >>> {name: len(part["images"]) for name, part in split(coco, {"train": 0.8, "val": 0.2}, seed=0).items()}
        {'train': 8, 'val': 2}
    """
    names = _checked(fractions)
    objects: dict[Hashable, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in coco["annotations"]:
        objects[identity(annotation.get("image_id"))].append(annotation)
    groups = _groups(coco["images"], objects, seed, together or {})
    if len(groups) < len(names):
        apart = "" if len(groups) == len(coco["images"]) else " without a copy, version or frame in another part"
        raise ValueError(
            f"{plural(len(coco['images']), 'image')} cannot be split into {plural(len(names), 'part')} "
            f"({', '.join(names)}){apart}"
        )
    dealt = _deal(groups, [fractions[name] for name in names])
    largest = max(range(len(names)), key=lambda part: fractions[names[part]])
    parts = {}
    for number, name in enumerate(names):
        images = [image for group in dealt[number] for image in group.images]
        annotations = [one for key in dict.fromkeys(identity(i.get("id")) for i in images) for one in objects[key]]
        if number == largest:
            listed = {identity(image.get("id")) for image in coco["images"]}
            annotations += [one for key, several in objects.items() if key not in listed for one in several]
        own = {"images": sorted(images, key=_by_id), "annotations": sorted(annotations, key=_by_id)}
        parts[name] = {**coco, **own}
    return parts


def _checked(fractions: Mapping[str, float]) -> list[str]:
    """Check the fractions; return the names of the parts that get images."""
    if not all(0 <= fraction <= 1 for fraction in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        given = ", ".join(f"{shown(name)} {fraction:g}" for name, fraction in fractions.items())
        raise ValueError(f"the fractions are {given}; each must be from 0 to 1, and their sum must be 1")
    return [name for name, fraction in fractions.items() if fraction > 0]


def _groups(
    images: Sequence[Mapping[str, Any]],
    objects: Mapping[Hashable, Sequence[Mapping[str, Any]]],
    seed: int,
    together: Mapping[Any, Hashable],
) -> list[_Group]:
    """Group the images that stay together, in a random order that depends only on the seed and the file names."""
    members: dict[Hashable, list[Mapping[str, Any]]] = defaultdict(list)
    for image in images:
        key = identity(image.get("id"))
        members[("mark", together[key]) if key in together else ("id", key)].append(image)
    groups = []
    for several in members.values():
        several.sort(key=_by_name)
        classes: Counter[Hashable] = Counter()
        for image in several:
            own = {identity(one.get("category_id")) for one in objects.get(identity(image.get("id")), ())}
            classes.update(own or {EMPTY})
        text = f"{seed}\n{_by_name(several[0])}".encode("utf-8", "surrogatepass")
        groups.append(_Group(hashlib.blake2b(text, digest_size=16).digest(), several, classes))
    return sorted(groups, key=lambda group: (group.place, _by_name(group.images[0])))


def _deal(groups: Sequence[_Group], fractions: Sequence[float]) -> list[list[_Group]]:
    """Assign the groups to parts; return the groups of each part."""
    total: Counter[Hashable] = Counter()
    holders: dict[Hashable, list[int]] = defaultdict(list)
    for k, group in enumerate(groups):
        total.update(group.classes)
        for name in group.classes:
            holders[name].append(k)
    room = _counts(sum(len(group.images) for group in groups), fractions)
    lacking = [{name: fraction * count for name, count in total.items()} for fraction in fractions]
    dealt: list[list[_Group]] = [[] for _ in fractions]
    waiting = dict.fromkeys(range(len(groups)))
    left = Counter({name: len(own) for name, own in holders.items()})
    while left:
        rarest = min(left, key=lambda name: (left[name], total[name], str(type(name)), str(name)))
        for k in holders[rarest]:
            if k not in waiting:
                continue
            del waiting[k]
            group = groups[k]
            part = _neediest(group, rarest, room, lacking, dealt, len(waiting))
            dealt[part].append(group)
            room[part] -= len(group.images)
            for name, count in group.classes.items():
                lacking[part][name] -= count
                left[name] -= 1
        left = +left  # drop classes without remaining groups
    return dealt


def _neediest(
    group: _Group,
    name: Hashable,
    room: Sequence[int],
    lacking: Sequence[Mapping[Hashable, float]],
    dealt: Sequence[Sequence[_Group]],
    waiting: int,
) -> int:
    """Return the part with free places that lacks most images of a class; make sure that no part stays empty."""
    parts = range(len(room))
    empty = [part for part in parts if not dealt[part]]
    fitting = [part for part in parts if room[part] >= len(group.images)] or [
        part for part in parts if room[part] == max(room)
    ]
    if len(empty) > waiting:
        fitting = empty
    return max(fitting, key=lambda part: (lacking[part][name], room[part], -part))


def _counts(images: int, fractions: Sequence[float]) -> list[int]:
    """Return the number of images per part: its fraction, rounded so that the sum is right, and at least one."""
    counts = [max(1, math.floor(images * fraction + 1e-9)) for fraction in fractions]
    while sum(counts) != images:
        step = 1 if sum(counts) < images else -1
        short = [step * (images * fraction - count) for fraction, count in zip(fractions, counts, strict=True)]
        able = [part for part, count in enumerate(counts) if count + step > 0]
        counts[max(able, key=lambda part: (short[part], -part))] += step
    return counts


def _by_id(entry: Mapping[str, Any]) -> tuple[bool, int, str]:
    key = identity(entry.get("id"))
    return isinstance(key, str), key if isinstance(key, int) else 0, str(key)


def _by_name(image: Mapping[str, Any]) -> tuple[str, bool, int, str]:
    return str(image.get("file_name")), *_by_id(image)

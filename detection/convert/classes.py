"""From one list of classes to another: what a detector knows of a class goes with the class's name."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from detection.convert.names import listing
from detection.foreign import shown
from detection.structures import Categories
from detection.wording import plural

_ROWS = {
    f"{layer}.{kind}": width
    for layer, width in (("box_head.logits", 1), ("box_head.deltas", 4), ("mask_head.logits", 1))
    for kind in ("weight", "bias")
}
"""Tensors with rows for each class, and how many."""


@dataclass(frozen=True)
class Carried:
    """Which classes were carried over."""

    copied: tuple[str, ...]
    initialised: tuple[str, ...]
    """Classes of the new list that the weights do not know."""
    left_out: tuple[str, ...]
    """Classes of the weights that the new list does not have."""

    def __str__(self) -> str:
        parts = [
            f"{len(self.copied)} of {plural(len(self.copied) + len(self.initialised), 'class')} carried over by name"
        ]
        for verb, names in (("initialised", self.initialised), ("left out", self.left_out)):
            parts += [f"{verb}: {listing(names, 8)}"] if names else []
        return "; ".join(parts)


def carry(
    state: Mapping[str, Tensor], theirs: Categories, initial: Mapping[str, Tensor], ours: Categories
) -> tuple[dict[str, Tensor], Carried]:
    """A detector's weights for another list of classes.

    The rows of the class logits, box deltas and mask logits go with their class's name (however written: case,
    blanks and underscores do not count); the background's row is kept; rows of new classes are taken from ``initial``.

    Args:
        state: the weights, for the classes ``theirs``.
        initial: a freshly initialised detector's weights, for ``ours``.

    Raises:
        ValueError: two classes of one list have the same name.
    """
    known = _by_name(theirs)
    rows = [(new, known[name]) for name, new in _by_name(ours).items() if name in known]
    target, source = [new for new, _ in rows], [old for _, old in rows]
    carried = dict(state)
    for key, width in _ROWS.items():
        if key not in state or key not in initial:
            continue
        if width == 4 and len(state[key]) == 4 < 4 * len(theirs):
            continue  # one box for all classes
        new, old = initial[key].unflatten(0, (-1, width)).clone(), state[key].unflatten(0, (-1, width))
        new[target] = old[source]
        if key.startswith("box_head.logits"):
            new[-1] = old[-1]  # the background
        carried[key] = new.flatten(0, 1)
    copied = {new for new, _ in rows}
    used = set(source)
    return carried, Carried(
        tuple(ours.names[i] for i in sorted(copied)),
        tuple(name for i, name in enumerate(ours.names) if i not in copied),
        tuple(name for i, name in enumerate(theirs.names) if i not in used),
    )


def _by_name(categories: Categories) -> dict[str, int]:
    labels: dict[str, int] = {}
    for label, name in enumerate(categories.names):
        key = name.strip().lower().replace("_", " ")
        if key in labels:
            raise ValueError(f"two classes are called {shown(name)!r}; weights cannot be carried over by name")
        labels[key] = label
    return labels

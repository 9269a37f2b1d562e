"""Transfer a detector's weights to another list of classes, by the names of the classes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from detection.categories import Categories
from detection.convert.names import listing
from detection.foreign import shown
from detection.wording import plural

_ROWS = {"box_head.logits": 1, "box_head.deltas": 4, "mask_head.logits": 1, "point_head.point.logits": 1}
"""Layers with rows for each class, and the number of rows per class."""
_COARSE = "point_head.coarse.logits"
"""A layer with a row for each cell of each class's coarse mask."""
_COLUMNS = re.compile(r"point_head\.point\.(layers\.\d+|logits)\.weight")
"""Layers whose last inputs are one for each class."""
_STAGE = re.compile(r"\.stages\.\d+|\.(weight|bias)$")
"""What is left out of a tensor's name for the name of its layer."""
_PER_ANCHOR = ("head.logits.weight", "head.logits.bias")
"""Tensors with a row for each class of each anchor; the classes of an anchor are neighbours."""


@dataclass(frozen=True)
class ClassTransfer:
    """Report of :func:`transfer_classes`."""

    copied: tuple[str, ...]
    """Classes of the new list that got weights of the same name."""
    initialised: tuple[str, ...]
    """Classes of the new list that the weights do not have."""
    left_out: tuple[str, ...]
    """Classes of the weights that the new list does not have."""

    def __str__(self) -> str:
        parts = [f"{len(self.copied)} of {plural(len(self.copied) + len(self.initialised), 'class')} copied by name"]
        for verb, names in (("initialised randomly", self.initialised), ("not used", self.left_out)):
            parts += [f"{verb}: {listing(names, 8)}"] if names else []
        return "; ".join(parts)


def transfer_classes(
    state: Mapping[str, Tensor], theirs: Categories, initial: Mapping[str, Tensor], ours: Categories
) -> tuple[dict[str, Tensor], ClassTransfer]:
    """Return a detector's weights for another list of classes, and a report.

    Each class of the new list gets the rows of class logits, box deltas and mask logits of the class with its name.
    Case and underscores in names do not matter. The row of the background stays. Rows of new classes come from
    ``initial``.

    Args:
        state: the weights, for the classes ``theirs``.
        theirs: the classes of the weights.
        initial: weights of a newly initialised detector, for ``ours``.
        ours: the new list of classes.

    Raises:
        ValueError: two classes of one list have the same name.
    """
    known = _by_name(theirs)
    rows = [(new, known[name]) for name, new in _by_name(ours).items() if name in known]
    target, source = [new for new, _ in rows], [old for _, old in rows]
    state = {
        key: _with_columns(value, initial[key], (len(theirs), source), (len(ours), target))
        if _COLUMNS.fullmatch(key) and key in initial
        else value
        for key, value in state.items()
    }
    carried = dict(state)
    for key in state.keys() & initial.keys():
        layer = _STAGE.sub("", key)
        width = len(initial[key]) // len(ours) if layer == _COARSE else _ROWS.get(layer)
        if width is None or len(state[key]) % width or state[key].shape[1:] != initial[key].shape[1:]:
            continue  # the check of all shapes reports layers of another size
        if width == 4 and len(state[key]) == 4 < 4 * len(theirs):
            continue  # class-agnostic boxes
        new, old = initial[key].unflatten(0, (-1, width)).clone(), state[key].unflatten(0, (-1, width))
        new[target] = old[source]
        if layer == "box_head.logits":
            new[-1] = old[-1]  # the background
        carried[key] = new.flatten(0, 1)
    for key in _PER_ANCHOR:
        if key in state and key in initial:
            each, before = (
                x[key].unflatten(0, (-1, len(classes))) for x, classes in ((initial, ours), (state, theirs))
            )
            if len(each) != len(before):
                continue  # other anchors; the check of all shapes reports them
            each = each.clone()
            each[:, target] = before[:, source]
            carried[key] = each.flatten(0, 1)
    copied = {new for new, _ in rows}
    used = set(source)
    return carried, ClassTransfer(
        tuple(ours.names[i] for i in sorted(copied)),
        tuple(name for i, name in enumerate(ours.names) if i not in copied),
        tuple(name for i, name in enumerate(theirs.names) if i not in used),
    )


def _with_columns(value: Tensor, initial: Tensor, old: tuple[int, list[int]], new: tuple[int, list[int]]) -> Tensor:
    """Return a weight whose last inputs, one for each class, are for the new list.

    Args:
        value: (rows, inputs) of the weights.
        initial: the same layer of a newly initialised detector; it may have another number of rows.
        old, new: number of classes of the weights and of the detector, and the labels of the classes that both have.
    """
    columns = value.new_zeros(len(value), new[0])
    if len(initial) == len(value):  # inputs of new classes
        columns.copy_(initial[:, -new[0] :])
    columns[:, new[1]] = value[:, -old[0] :][:, old[1]]
    return torch.cat([value[:, : -old[0]], columns], dim=1)


def transfer_semantic(
    state: Mapping[str, Tensor], theirs: Categories | None, initial: Mapping[str, Tensor], ours: Categories | None
) -> tuple[dict[str, Tensor], str]:
    """Return weights whose semantic logits are for another list of classes, and a report; as for the other classes."""
    if theirs is None or ours is None or theirs.names == ours.names:
        return dict(state), "all semantic classes"
    known = _by_name(theirs)
    rows = [(new, known[name]) for name, new in _by_name(ours).items() if name in known]
    carried = dict(state)
    for key in ("semantic_head.logits.weight", "semantic_head.logits.bias"):
        carried[key] = initial[key].clone()
        carried[key][[new for new, _ in rows]] = state[key][[old for _, old in rows]]
    return carried, f"{len(rows)} of {plural(len(ours), 'semantic class')} copied by name"


def _by_name(categories: Categories) -> dict[str, int]:
    labels: dict[str, int] = {}
    for label, name in enumerate(categories.names):
        key = name.strip().lower().replace("_", " ")
        if key in labels:
            raise ValueError(f"two classes have the name {shown(name)!r}; rename one to copy weights by class name")
        labels[key] = label
    return labels

"""Rename the keys of a state dict by a table of patterns."""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from detection.foreign import shown

Rules = Sequence[tuple[str, str]]
"""Pairs of a regular expression for the complete key and a replacement; an empty replacement drops the key."""


def rename(state: Mapping[str, Tensor], rules: Rules, origin: str) -> dict[str, Tensor]:
    """Rename the keys of a state dict; the first rule that matches a key applies.

    Raises:
        ValueError: no rule matches a key, or two keys get the same name.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        name = _first(key, rules)
        if name is None:
            unknown.append(key)
        elif name in renamed:
            raise ValueError(f"{origin} weights: two tensors get the name {name}, the second is {key}; remove one")
        elif name:
            renamed[name] = value
    if unknown:
        raise ValueError(
            f"{origin} weights: {listing(unknown)} do not belong to an R-CNN, RetinaNet or FCOS with a ResNet-FPN; "
            "is the file from another toolkit or another model?"
        )
    return renamed


def listing(keys: Iterable[str], most: int = 5) -> str:
    """Join keys to text such as ``a, b, c and 12 more``."""
    keys = list(keys)
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(map(shown, keys[:most])) + rest


def _first(key: str, rules: Rules) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(replacement)
    return None

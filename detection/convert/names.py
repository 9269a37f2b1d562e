"""Renaming the keys of a state dict by a table of patterns."""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from detection.foreign import shown

Rules = Sequence[tuple[str, str]]
"""(regular expression of the whole key, replacement); an empty replacement leaves the key out by intent."""


def rename(state: Mapping[str, Tensor], rules: Rules, origin: str) -> dict[str, Tensor]:
    """The state dict under the names that the rules give; the first rule that matches a key counts.

    Raises:
        ValueError: a key that no rule knows, or two that get the same name.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        name = _first(key, rules)
        if name is None:
            unknown.append(key)
        elif name in renamed:
            raise ValueError(f"{origin} weights: two tensors become {name}, the second is {key}")
        elif name:
            renamed[name] = value
    if unknown:
        raise ValueError(
            f"{origin} weights: {listing(unknown)} belong to no Faster or Mask R-CNN with a ResNet-FPN that is known "
            "here; was the file made by another toolkit, or for another model?"
        )
    return renamed


def listing(keys: Iterable[str], most: int = 5) -> str:
    """``a, b, c and 12 more``."""
    keys = list(keys)
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(map(shown, keys[:most])) + rest


def _first(key: str, rules: Rules) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(replacement)
    return None

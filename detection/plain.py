"""Convert settings to plain values, which a file can hold without code."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any, name: str = "value") -> Any:
    """Convert a value to dicts, lists and scalars, which can be read without running code.

    Raises:
        ValueError: the value contains another type; the message uses ``name`` for it.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, name) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    for kind in (bool, int, float, str):  # convert subclasses, which could not be read back
        if isinstance(value, kind):
            return kind(value)
    if value is not None:
        raise ValueError(f"{name} holds a {type(value).__name__}; give plain numbers and strings")
    return None

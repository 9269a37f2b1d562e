"""The names of backbones."""

import difflib
import re

from backbones.resnet import VARIANTS
from backbones.torchvision_adapter import torchvision_names
from backbones.vit import VITS

MOBILENET = "mobilenet_v3_large_c5"
"""The backbone of two torchvision detectors. ``available()`` does not list it, as its maps have only one stride."""


def available() -> list[str]:
    """Return the names of the toolkit's own backbones and of torchvision's."""
    return [*VARIANTS, *torchvision_names(), *VITS]


def is_known(name: str) -> bool:
    """Return whether a name belongs to the toolkit, torchvision or timm, and is not an import path."""
    return _is_own(name) or re.fullmatch(r"timm/[\w.]+", name) is not None or name in torchvision_names()


def _is_own(name: str) -> bool:
    """Return whether a name is known without torchvision's list, whose import is slower than that of PyTorch."""
    return name in (*VARIANTS, *VITS, MOBILENET)


def check_name(name: str) -> None:
    """Raise an error for an unknown backbone name.

    Raises:
        ValueError: the name is unknown; the message suggests similar names.
    """
    if _is_own(name) or name.startswith("timm/") or "." in name or name in torchvision_names():
        return
    near = difflib.get_close_matches(name, available(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"use {', '.join(VARIANTS)} or a name from torchvision"
    raise ValueError(f"unknown backbone {name!r}; {hint} (timm/NAME and import paths work, too)")

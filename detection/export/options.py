"""Options of an export to a folder, for the command and for Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PROBABILITY = 1e-4
"""Largest difference of the probability of a semantic class that passes the parity gate."""
EQUAL = 0.999
"""Smallest share of equal pixels of two maps that passes."""


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export; ``rcnn export --help`` describes each one."""

    format: str = "onnx"
    """``onnx``, ``openvino`` or ``torch``."""
    images: Sequence[str] = ()
    """Files, folders and patterns to compare on; synthetic images if empty."""
    preprocess: Literal["inside", "outside"] = "outside"
    """``inside``: the file takes images as decoded, resizes them, and returns boxes in their pixels."""
    nms: Literal["inside", "outside"] = "inside"
    """``outside``: the file returns boxes and scores before the last NMS."""
    masks: Literal["frames", "full"] = "frames"
    """``full``: the file also returns masks of the whole canvas."""

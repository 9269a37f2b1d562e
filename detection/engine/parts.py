"""What differs between the callbacks of detectors and those of classifiers."""

from typing import Any, NamedTuple

BEST = "val/AP"
"""Metric that determines the best checkpoint: AP of keypoints or masks, or of boxes for a detector without them."""
BEST_OF_MAPS = {"all": "val/semantic/mIoU", "stuff": "val/panoptic/PQ"}
"""The same for detectors with a semantic head, by the maps that they need."""


class Parts(NamedTuple):
    """Callbacks that only some kinds of models have."""

    best: Any = None
    """Callback that keeps the best validation for the report, called with the metric; None: that of detectors."""
    pictures: bool = True
    """Images of samples and detections."""
    report: bool = True
    """Evaluation report of the best validation."""


EVERY = Parts()

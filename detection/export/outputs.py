"""The values that an exported file returns, by the fields of :class:`~detection.structures.Detections`."""

from detection.models.detector import Detector
from detection.models.keypoint_head import keypoint_config
from detection.models.mask_forms import mask_config
from detection.models.panoptic import SemanticFPN, WithSemanticHead

OBJECTS = ("boxes", "scores", "labels")
FULL = "full_masks"
"""Masks of whole canvases, which are no field."""


def output_names(model: Detector, nms: str = "inside", full: bool = False) -> tuple[str, ...]:
    """Return the names of the values that the file of a detector returns, in their order.

    Args:
        nms: ``outside`` for boxes and scores before the last NMS.
        full: the file also returns masks of whole canvases.
    """
    if nms == "outside":
        return OBJECTS[:2]
    if isinstance(model, SemanticFPN):
        return ("semantic",)
    found = [*OBJECTS]
    found += ["masks"] if mask_config(model) is not None else []
    found += ["keypoints"] if keypoint_config(model) is not None else []
    found += ["semantic"] if isinstance(model, WithSemanticHead) else []
    return (*found, FULL) if full else tuple(found)

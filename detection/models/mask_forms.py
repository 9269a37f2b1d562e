"""What a detector predicts, and which part predicts masks."""

from typing import Any

from detection.models.detector import Detector
from detection.models.keypoint_head import keypoint_config
from detection.models.mask_head import MaskHeadConfig
from detection.models.object_masks import ObjectMaskConfig
from detection.models.one_stage import OneStage
from detection.models.point_head import PointHeadConfig, PointRend
from detection.models.rcnn import MaskRCNN
from detection.models.task_aligned import TaskAlignedConfig


def mask_config(model: Detector) -> MaskHeadConfig | PointHeadConfig | ObjectMaskConfig | None:
    """Return the config of the part that predicts masks; None for a detector of boxes."""
    if isinstance(model, MaskRCNN):
        return model.mask_head.config
    if isinstance(model, PointRend):
        return model.point_head.config
    if isinstance(model, OneStage) and isinstance(model.head.config, TaskAlignedConfig) and model.head.config.masks:
        return model.head.config.mask_branch
    return None


def iou_types(model: Detector) -> list[str]:
    """Return what COCO's metrics score of a detector: ``bbox``, and ``segm`` or ``keypoints`` if it predicts them."""
    masks, keypoints = mask_config(model) is not None, keypoint_config(model) is not None
    return ["bbox", *(["segm"] if masks else []), *(["keypoints"] if keypoints else [])]


def loss_names(model: Detector) -> list[str]:
    """Return the names of a detector's losses; each head names its own in ``loss_names``."""
    return [name for head in model.children() for name in getattr(head, "loss_names", ())]


def predicts_masks(mask_head: Any, task_aligned: Any, point_head: Any = None) -> bool:
    """Return whether a detector with these settings predicts masks.

    Args:
        mask_head, task_aligned, point_head: configs, or what the parser made of them; None: no such part.
    """
    settings = getattr(task_aligned, "init_args", task_aligned)  # the parser's form of a class that has a base class
    return is_set(mask_head) or is_set(point_head) or (settings is not None and bool(settings.masks))


def wanted_maps(semantic_head: Any, mask_head: Any) -> str | None:
    """Return which semantic maps a detector needs: ``all`` classes, ``stuff`` beside its objects, or None.

    Args:
        semantic_head, mask_head: configs, or what the parser made of them; None: the detector lacks this part.
    """
    return None if semantic_head is None else "all" if mask_head is None else "stuff"


def is_set(part: Any) -> bool:
    """Return whether a detector has a part with this config."""
    return part is not None


def has_pixel_corners(model: Detector) -> bool:
    """Return whether a detector predicts keypoints half a pixel of the file to the upper left, as torchvision's do."""
    config = keypoint_config(model)
    return config is not None and config.pixel_corners


def has_rounded_frames(model: Detector) -> bool:
    """Return whether a detector rounds boxes to whole pixels before it pastes masks."""
    config = mask_config(model)
    return config is not None and config.rounded_frames

"""Describe a detector: kind, backbone, classes, parameters, operations."""

import warnings
from dataclasses import dataclass, replace

import torch

from backbones import is_known
from detection.foreign import shown
from detection.inference.thresholds import class_names
from detection.models.build import build_detector
from detection.models.cascade import CascadeMaskRCNN, CascadeRCNN
from detection.models.detector import Detector
from detection.models.keypoint_head import KeypointRCNN
from detection.models.one_stage import OneStage
from detection.models.panoptic import PanopticFPN, SemanticFPN
from detection.models.point_head import PointRend
from detection.models.rcnn import MaskRCNN

MOST_NAMES = 10
"""Number of class names in the printed text."""


@dataclass(frozen=True)
class ModelInfo:
    """A detector in numbers; ``print`` it for a table."""

    kind: str
    """Name of the architecture, as ``Mask R-CNN``."""
    backbone: str | None
    """Name of the backbone; None if the detector was not built from configs."""
    classes: tuple[str, ...]
    """Class names by label; the labels as text if the model has no names."""
    parameters: int
    """Number of all parameters, including frozen ones; 0 for an export, whose engine holds them."""
    multiply_adds: int | None
    """Multiply-adds of backbone and FPN for one image of ``image_size``; None for a custom detector or backbone."""
    image_size: tuple[int, int]
    """(height, width) in pixels."""
    test_size: tuple[int, int]
    """(shortest, longest) image side in pixels after resizing."""
    device: str

    def __str__(self) -> str:
        names = ", ".join(map(shown, self.classes[:MOST_NAMES]))
        more = f" and {len(self.classes) - MOST_NAMES} more" if len(self.classes) > MOST_NAMES else ""
        rows = {
            "detector": self.kind,
            "backbone": self.backbone and shown(self.backbone),
            "classes": f"{len(self.classes)}: {names}{more}",
            "parameters": self.parameters and f"{self.parameters / 1e6:.1f} million",
            "operations": self.multiply_adds
            and f"{self.multiply_adds / 1e9:.1f} billion multiply-adds of backbone and pyramid for an image of "
            f"{self.image_size[0]} x {self.image_size[1]}",
            "images": f"resized to {self.test_size[0]} pixels on the shortest side, {self.test_size[1]} at most",
            "device": self.device,
        }
        return "\n".join(f"{name:11}{value}" for name, value in rows.items() if value)


def model_info(model: Detector, image_size: tuple[int, int] = (800, 1344)) -> ModelInfo:
    """Describe a detector.

    Args:
        model: the detector.
        image_size: (height, width) of the image for which to count operations; multiples of 32.

    Example:
        >>> print(model_info(load_model("runs/mine")))  # doctest: +SKIP
    """
    return ModelInfo(
        kind=kind_of(model),
        backbone=model.configs and model.configs["backbone"].name,  # type: ignore[arg-type]
        classes=class_names(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=_multiply_adds(model, image_size),
        image_size=image_size,
        test_size=model.test_size,
        device=str(model.pixel_mean.device),
    )


def kind_of(model: Detector) -> str:
    """Return the name of a detector's architecture, as ``Mask R-CNN``."""
    if isinstance(model, OneStage):
        return model.head.kind
    if isinstance(model, CascadeRCNN | CascadeMaskRCNN):
        return "Cascade Mask R-CNN" if isinstance(model, MaskRCNN) else "Cascade R-CNN"
    if isinstance(model, SemanticFPN | PanopticFPN):
        return "Semantic FPN" if isinstance(model, SemanticFPN) else "Panoptic FPN"
    if isinstance(model, KeypointRCNN | PointRend):
        return "Keypoint R-CNN" if isinstance(model, KeypointRCNN) else "PointRend"
    return "Mask R-CNN" if isinstance(model, MaskRCNN) else "Faster R-CNN"


def _multiply_adds(model: Detector, image_size: tuple[int, int]) -> int | None:
    """Count on PyTorch's meta device, which computes only shapes; return None for a custom backbone."""
    if model.configs is None or not is_known(model.configs["backbone"].name):
        return None
    configs = model.configs | {"backbone": replace(model.configs["backbone"], weights=None)}
    from torch.utils.flop_counter import FlopCounterMode  # here, as it imports triton

    with warnings.catch_warnings(), torch.device("meta"), torch.no_grad():
        warnings.simplefilter("ignore")  # about a backbone without weights, which are not necessary here
        like = build_detector(model.num_classes, **configs).eval()  # some backbones run once to learn their channels
        with FlopCounterMode(display=False) as counter:
            like.features(torch.empty(1, len(model.pixel_mean), *image_size), torch.empty(1, 2))
    return int(counter.get_total_flops()) // 2

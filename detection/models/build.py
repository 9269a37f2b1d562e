"""Detectors from configs, or by the name of their backbone."""

import warnings
from collections.abc import Sequence
from typing import Any

import backbones
from backbones import BackboneConfig
from detection.models.box_head import BoxHead, BoxHeadConfig
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHead, MaskHeadConfig
from detection.models.necks import build_neck
from detection.models.rcnn import FasterRCNN, MaskRCNN
from detection.models.rpn import RPN, RPNConfig
from detection.structures import Categories


def faster_rcnn(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> FasterRCNN:
    """Faster R-CNN by the name of its backbone.

    Args:
        backbone: a name as in :func:`backbones.available`, or a config (weights, norm, frozen stages).
        num_classes: K, without background; if None, that of ``categories``, or COCO's 80.
        fpn, rpn, box_head: the defaults if None.
        categories: names and original ids of the classes, as ``load_annotations`` finds them; or a list of names,
            whose ids are then 1 to K.

    Raises:
        ValueError: as :func:`build_detector`; or another number of classes than of categories.

    Warns:
        UserWarning: frozen parts of a backbone without weights, which stay random unless weights are loaded into them.

    Example:
        >>> model = faster_rcnn("resnet18", num_classes=3)
    """
    categories = _categories(categories)
    model = build_detector(_count(num_classes, categories), _warned_of(backbone), fpn, rpn, box_head, None)
    model.categories = categories
    return model


def mask_rcnn(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    mask_head: MaskHeadConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> MaskRCNN:
    """Mask R-CNN by the name of its backbone; as :func:`faster_rcnn`."""
    categories = _categories(categories)
    count = _count(num_classes, categories)
    model = build_detector(count, _warned_of(backbone), fpn, rpn, box_head, mask_head or MaskHeadConfig())
    assert isinstance(model, MaskRCNN)
    model.categories = categories
    return model


def build_detector(
    num_classes: int,
    backbone: str | BackboneConfig,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    mask_head: MaskHeadConfig | None = None,
) -> FasterRCNN:
    """A detector from configs: Mask R-CNN if there is a mask head, else Faster R-CNN.

    Channels, strides and anchors per cell follow from the parts below. The detector keeps its configs, so that
    :func:`~detection.checkpoint.save_model` needs none.

    Raises:
        ValueError: unknown backbone, anchors that do not fit the pyramid, ...
    """
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a detector needs at least one class (background is not one)")
    backbone = _config(backbone)
    fpn, rpn, box_head = fpn or FPNConfig(), rpn or RPNConfig(), box_head or BoxHeadConfig()
    body = backbones.build(backbone)
    neck = build_neck(body.channels, body.strides, fpn)
    parts = (
        body,
        neck,
        RPN(neck.channels, neck.strides, rpn),
        BoxHead(neck.channels, num_classes, body.strides, box_head),
    )
    if mask_head is None:
        model = FasterRCNN(*parts)
    else:
        model = MaskRCNN(*parts, MaskHead(neck.channels, num_classes, body.strides, mask_head))
    model.configs = {"backbone": backbone, "fpn": fpn, "rpn": rpn, "box_head": box_head, "mask_head": mask_head}
    return model


def frozen_at_random(backbone: BackboneConfig) -> list[str]:
    """Settings that keep parts of a backbone without weights at random values for the whole training.

    A frozen norm of a network without weights normalises nothing, and frozen stages of one see nothing.
    """
    if backbone.weights is not None:
        return []
    found = [f"norm {backbone.norm}"] if backbone.norm == "frozen" else []
    return found + ([f"freeze {backbone.freeze}"] if backbone.freeze else [])


def learning_norm(backbone: BackboneConfig) -> str:
    """A norm that learns from the start; backbones other than ResNets may have none to make group norms of."""
    return "group" if backbone.name in backbones.VARIANTS else "batch"


def _warned_of(backbone: str | BackboneConfig) -> BackboneConfig:
    config = _config(backbone)
    if frozen := frozen_at_random(config):
        warnings.warn(
            f"backbone {config.name} has no weights, and {' and '.join(frozen)} would keep random values for the whole "
            f"training; give weights='imagenet' or a file, or norm='{learning_norm(config)}' and freeze=0; fine if you "
            "load weights into the detector",
            stacklevel=3,
        )
    return config


def _config(backbone: str | BackboneConfig) -> BackboneConfig:
    if isinstance(backbone, str):
        return BackboneConfig(name=backbone)
    if not isinstance(backbone, BackboneConfig):
        raise ValueError(
            f"backbone is a {type(backbone).__name__}; give a name or a BackboneConfig (a class of your own goes by "
            "its import path, my_lab.nets.MyNet)"
        )
    return backbone


def _categories(given: Any) -> Categories | None:
    """Categories from names, or as they are.

    Raises:
        ValueError: neither; one name in place of a list; a name twice.
    """
    if given is None or isinstance(given, Categories):
        return given
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise ValueError(
            f"categories is a {type(given).__name__}; give a list of names, or detection.structures.Categories"
        )
    if not given or len(set(given)) < len(given):
        raise ValueError(f"categories {', '.join(given) or 'is empty'}: give each class one name of its own")
    return Categories(tuple(given), tuple(range(1, len(given) + 1)))


def _count(num_classes: int | None, categories: Categories | None) -> int:
    """K, of which categories tell, too."""
    if num_classes is None:
        return 80 if categories is None else len(categories)
    if categories is not None and num_classes != len(categories):
        raise ValueError(
            f"num_classes is {num_classes}, but the number of categories is {len(categories)}; leave one out"
        )
    return num_classes

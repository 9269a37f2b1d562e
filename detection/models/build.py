"""Build detectors from configs."""

from collections.abc import Sequence
from typing import Any

import backbones
from backbones import Backbone, BackboneConfig
from detection.models.box_head import BoxHead, BoxHeadConfig
from detection.models.cascade import (
    CascadeConfig,
    CascadeHead,
    CascadeMaskHeads,
    CascadeMaskRCNN,
    CascadeRCNN,
)
from detection.models.combining import check_alone
from detection.models.detector import Detector
from detection.models.fcos import FCOSConfig
from detection.models.fpn import FPN, FPNConfig
from detection.models.keypoint_head import KeypointHead, KeypointHeadConfig, KeypointRCNN
from detection.models.mask_head import MaskHead, MaskHeadConfig
from detection.models.necks import build_neck
from detection.models.one_stage import PYRAMID, OneStage
from detection.models.panoptic import PanopticFPN, SemanticFPN
from detection.models.point_head import PointHead, PointHeadConfig, PointRend
from detection.models.rcnn import FasterRCNN, MaskRCNN
from detection.models.retinanet import RetinaNetConfig
from detection.models.rpn import RPN, RPNConfig
from detection.models.semantic_head import SemanticHead, SemanticHeadConfig
from detection.models.task_aligned import TaskAlignedConfig


def build_detector(
    num_classes: int,
    backbone: str | BackboneConfig,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    mask_head: MaskHeadConfig | None = None,
    retinanet: RetinaNetConfig | None = None,
    fcos: FCOSConfig | None = None,
    cascade: CascadeConfig | None = None,
    task_aligned: TaskAlignedConfig | None = None,
    semantic_head: SemanticHeadConfig | None = None,
    keypoint_head: KeypointHeadConfig | None = None,
    point_head: PointHeadConfig | None = None,
) -> Detector:
    """Build a detector from configs: the heads that you give.

    - ``retinanet``, ``fcos`` or ``task_aligned``: a one-stage detector. Leave out the heads of other detectors.
    - ``mask_head``: a Mask R-CNN. ``rpn`` and ``box_head`` have defaults.
    - ``keypoint_head``: a Keypoint R-CNN, without masks.
    - ``point_head``: a PointRend, whose masks replace those of ``mask_head``.
    - ``cascade``: a Cascade R-CNN. Each stage has the layers of ``box_head``.
    - ``semantic_head``: a Semantic FPN; with ``mask_head`` a Panoptic FPN.
    - None of these: a Faster R-CNN.

    Each part gets its channels and strides from the part before it. The detector keeps its configs for
    :func:`~detection.checkpoint.save_model`.

    Raises:
        ValueError: the backbone is unknown, the anchors do not fit the pyramid, heads do not go together, or another
            setting is invalid.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; it must be at least 1 (background does not count)")
    backbone = backbone_config(backbone)
    heads = {"retinanet": retinanet, "fcos": fcos, "task_aligned": task_aligned}
    one_stage = {name: head for name, head in heads.items() if head is not None}
    two_stage = {"rpn": (rpn, RPNConfig()), "box_head": (box_head, BoxHeadConfig())}
    if one_stage:
        others: dict[str, Any] = {"mask_head": mask_head, "cascade": cascade, "semantic_head": semantic_head}
        check_alone([*one_stage], two_stage, **others, keypoint_head=keypoint_head, point_head=point_head)
        ((name, head),) = one_stage.items()
        fpn = fpn or PYRAMID
        body = backbones.build(backbone)
        neck = build_neck(body.channels, body.strides, fpn)
        detector = OneStage(body, neck, head.build(neck.channels, num_classes, neck.strides))
        detector.configs = {"backbone": backbone, "fpn": fpn, name: head}
        return detector
    fpn = fpn or FPNConfig()
    if semantic_head is not None and mask_head is None:
        others = {"cascade": cascade, "keypoint_head": keypoint_head, "point_head": point_head}
        check_alone(["semantic_head"], two_stage, **others)
        body = backbones.build(backbone)
        neck = build_neck(body.channels, body.strides, fpn)
        strides = neck.strides[: len(neck.lateral)]
        semantic = SemanticFPN(body, neck, SemanticHead(neck.channels, num_classes, strides, semantic_head))
        semantic.configs = {"backbone": backbone, "fpn": fpn, "semantic_head": semantic_head}
        return semantic
    rpn, box_head = rpn or RPNConfig(), box_head or BoxHeadConfig()
    body = backbones.build(backbone)
    neck = build_neck(body.channels, body.strides, fpn)
    strides = neck.strides[: len(neck.lateral)]  # the levels that RoIs are pooled from
    body_to_rpn = (body, neck, RPN(neck.channels, neck.strides, rpn))
    shape = (neck.channels, num_classes, strides)
    model: FasterRCNN
    if keypoint_head is not None:
        others = {"mask_head": mask_head, "cascade": cascade, "semantic_head": semantic_head, "point_head": point_head}
        check_alone(["keypoint_head"], {}, **others)
        model = KeypointRCNN(*body_to_rpn, BoxHead(*shape, box_head), KeypointHead(*shape, keypoint_head))
    elif point_head is not None:
        check_alone(["point_head"], {}, mask_head=mask_head, cascade=cascade, semantic_head=semantic_head)
        model = PointRend(*body_to_rpn, BoxHead(*shape, box_head), PointHead(*shape, point_head))
    elif semantic_head is not None:
        assert mask_head is not None
        if cascade is not None:
            raise ValueError("model.semantic_head does not work with model.cascade; set one of them to null")
        stuff = SemanticHead(neck.channels, 1 + max(1, len(semantic_head.stuff)), strides, semantic_head)
        model = PanopticFPN(*body_to_rpn, BoxHead(*shape, box_head), MaskHead(*shape, mask_head), stuff)
    elif cascade is not None:
        model = _cascade(body_to_rpn, shape, box_head, mask_head, cascade)
    elif mask_head is None:
        model = FasterRCNN(*body_to_rpn, BoxHead(*shape, box_head))
    else:
        model = MaskRCNN(*body_to_rpn, BoxHead(*shape, box_head), MaskHead(*shape, mask_head))
    model.configs = {"backbone": backbone, "fpn": fpn, "rpn": rpn, "box_head": box_head, "mask_head": mask_head}
    added: dict[str, Any] = {"cascade": cascade, "semantic_head": semantic_head, "keypoint_head": keypoint_head}
    added["point_head"] = point_head
    model.configs |= {name: config for name, config in added.items() if config is not None}
    return model


def _cascade(
    body_to_rpn: tuple[Backbone, FPN, RPN],
    shape: tuple[int, int, Sequence[int]],
    box_head: BoxHeadConfig,
    mask_head: MaskHeadConfig | None,
    cascade: CascadeConfig,
) -> CascadeRCNN | CascadeMaskRCNN:
    """Build the heads of a cascade for a pyramid's channels, the number of classes, and the strides."""
    boxes = CascadeHead([BoxHead(*shape, one) for one in cascade.of_stages(box_head)], cascade)
    if mask_head is None:
        return CascadeRCNN(*body_to_rpn, boxes)
    if not cascade.mask_per_stage:
        return CascadeMaskRCNN(*body_to_rpn, boxes, MaskHead(*shape, mask_head))
    heads = [MaskHead(*shape, mask_head) for _ in cascade.loss_weights]
    return CascadeMaskRCNN(*body_to_rpn, boxes, CascadeMaskHeads(heads, cascade.loss_weights))


def frozen_at_random(backbone: BackboneConfig) -> list[str]:
    """Return the settings that freeze parts of a backbone without weights, so that they stay random in training.

    Frozen norms with initial statistics do not normalise. Frozen stages with random weights give no useful features.
    """
    if backbone.weights is not None:
        return []
    found = [f"norm {backbone.norm}"] if backbone.norm == "frozen" else []
    return found + ([f"freeze {backbone.freeze}"] if backbone.freeze else [])


def learning_norm(backbone: BackboneConfig) -> str:
    """Return a trainable norm; only ResNets are sure to support group norm."""
    return "group" if backbone.name in backbones.VARIANTS else "batch"


def backbone_config(backbone: str | BackboneConfig) -> BackboneConfig:
    """Return the config of a backbone, from its name if need be.

    Raises:
        ValueError: the argument is something else.
    """
    if isinstance(backbone, str):
        return BackboneConfig(name=backbone)
    if not isinstance(backbone, BackboneConfig):
        raise ValueError(
            f"backbone is a {type(backbone).__name__}; give a name, a BackboneConfig, or the import path of your own "
            "class, such as my_lab.nets.MyNet"
        )
    return backbone


def __getattr__(name: str) -> Any:
    """Return a function of :mod:`detection.models.factories`, which were in this module before."""
    from detection.models import factories

    if not name.startswith("_") and hasattr(factories, name):
        return getattr(factories, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")

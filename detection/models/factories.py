"""A function for each kind of detector, which builds it from the name of a backbone."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from backbones import BackboneConfig
from detection.categories import Categories
from detection.models.box_head import BoxHeadConfig
from detection.models.build import backbone_config, build_detector, frozen_at_random, learning_norm
from detection.models.cascade import (
    CascadeConfig,
    CascadeMaskRCNN,
    CascadeRCNN,
)
from detection.models.detector import Detector
from detection.models.fcos import FCOSConfig
from detection.models.fpn import FPNConfig
from detection.models.keypoint_head import KeypointHeadConfig, KeypointRCNN
from detection.models.mask_head import MaskHeadConfig
from detection.models.one_stage import OneStage
from detection.models.panoptic import PanopticFPN, SemanticFPN
from detection.models.point_head import PointHeadConfig, PointRend
from detection.models.rcnn import FasterRCNN, MaskRCNN
from detection.models.retinanet import RetinaNetConfig
from detection.models.rpn import RPNConfig
from detection.models.semantic_head import SemanticHeadConfig
from detection.models.task_aligned import TaskAlignedConfig

D = TypeVar("D", bound=Detector)


def faster_rcnn(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> FasterRCNN:
    """Build a Faster R-CNN from the name of its backbone.

    Args:
        backbone: a name as in :func:`backbones.available`, or a config (weights, norm, frozen stages).
        num_classes: K, without background; None: the number of ``categories``, or 80 as in COCO.
        fpn: config of the pyramid; None: the defaults.
        rpn: config of the region proposal network; None: the defaults.
        box_head: config of the box head; None: the defaults.
        categories: names and original IDs of the classes, from ``load_annotations``. Or a list of names; their IDs are
            then 1 to K.

    Raises:
        ValueError: as for :func:`build_detector`, or ``num_classes`` differs from the number of categories.

    Warns:
        UserWarning: the config freezes parts of a backbone without weights. They stay random until you load weights.

    Example:
        >>> model = faster_rcnn("resnet18", num_classes=3)
    """
    return _made(FasterRCNN, backbone, num_classes, categories, fpn=fpn, rpn=rpn, box_head=box_head)


def mask_rcnn(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    mask_head: MaskHeadConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> MaskRCNN:
    """Build a Mask R-CNN from the name of its backbone; arguments as for :func:`faster_rcnn`."""
    heads = {"rpn": rpn, "box_head": box_head, "mask_head": mask_head or MaskHeadConfig()}
    return _made(MaskRCNN, backbone, num_classes, categories, fpn=fpn, **heads)


def cascade_rcnn(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    cascade: CascadeConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> CascadeRCNN:
    """Build a Cascade R-CNN from the name of its backbone.

    Args:
        backbone, num_classes, fpn, rpn, box_head, categories: as for :func:`faster_rcnn`.
        cascade: config of the stages; None: the defaults.

    Raises:
        ValueError: as for :func:`faster_rcnn`.

    Example:
        >>> model = cascade_rcnn("resnet18", num_classes=3)
    """
    heads = {"rpn": rpn, "box_head": box_head, "cascade": cascade or CascadeConfig()}
    return _made(CascadeRCNN, backbone, num_classes, categories, fpn=fpn, **heads)


def cascade_mask_rcnn(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    mask_head: MaskHeadConfig | None = None,
    cascade: CascadeConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> CascadeMaskRCNN:
    """Build a Cascade Mask R-CNN from the name of its backbone; arguments as for :func:`cascade_rcnn`."""
    heads = {"rpn": rpn, "box_head": box_head, "mask_head": mask_head or MaskHeadConfig()}
    return _made(
        CascadeMaskRCNN, backbone, num_classes, categories, fpn=fpn, **heads, cascade=cascade or CascadeConfig()
    )


def keypoint_rcnn(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    keypoint_head: KeypointHeadConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> KeypointRCNN:
    """Build a Keypoint R-CNN from the name of its backbone.

    Args:
        backbone, fpn, rpn, box_head, categories: as for :func:`faster_rcnn`.
        num_classes: K, without background; None: the number of ``categories``, or 1, the persons of COCO.
        keypoint_head: config of the keypoint head; None: the defaults. Categories with keypoints set their number.

    Raises:
        ValueError: as for :func:`faster_rcnn`.

    Example:
        >>> model = keypoint_rcnn("resnet18")
        >>> model.keypoint_head.config.keypoints
        17
    """
    head = keypoint_head or KeypointHeadConfig()
    if isinstance(categories, Categories) and categories.keypoints:
        head = replace(head, keypoints=categories.keypoints)
    if categories is None and num_classes is None:
        num_classes = 1
    heads = {"rpn": rpn, "box_head": box_head, "keypoint_head": head}
    return _made(KeypointRCNN, backbone, num_classes, categories, fpn=fpn, **heads)


def pointrend(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    point_head: PointHeadConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> PointRend:
    """Build a PointRend, whose masks are fine, from the name of its backbone; arguments as for :func:`faster_rcnn`.

    Example:
        >>> model = pointrend("resnet18", num_classes=3)
    """
    heads = {"rpn": rpn, "box_head": box_head, "point_head": point_head or PointHeadConfig()}
    return _made(PointRend, backbone, num_classes, categories, fpn=fpn, **heads)


def retinanet(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    head: RetinaNetConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> OneStage:
    """Build a RetinaNet from the name of its backbone.

    Args:
        backbone, num_classes, categories: as for :func:`faster_rcnn`.
        fpn: P3 to P7 if None, P6 by a convolution of P5.
        head: anchors, layers, losses and detections; the default if None.

    Raises:
        ValueError: as :func:`faster_rcnn`.

    Example:
        >>> model = retinanet("resnet18", num_classes=3)
    """
    return _made(OneStage, backbone, num_classes, categories, fpn=fpn, retinanet=head or RetinaNetConfig())


def fcos(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    head: FCOSConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> OneStage:
    """Build an FCOS from the name of its backbone; arguments as for :func:`retinanet`."""
    return _made(OneStage, backbone, num_classes, categories, fpn=fpn, fcos=head or FCOSConfig())


def task_aligned(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    head: TaskAlignedConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> OneStage:
    """Build a task-aligned detector from the name of its backbone; arguments as for :func:`retinanet`.

    Example:
        >>> from detection.models.task_aligned import TaskAlignedConfig
        >>> model = task_aligned("resnet18", num_classes=3, head=TaskAlignedConfig(masks=True))
    """
    return _made(OneStage, backbone, num_classes, categories, fpn=fpn, task_aligned=head or TaskAlignedConfig())


def semantic_fpn(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    semantic_head: SemanticHeadConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> SemanticFPN:
    """Build a Semantic FPN, which labels pixels, from the name of its backbone; arguments as for :func:`faster_rcnn`.

    Example:
        >>> model = semantic_fpn("resnet18", categories=["sky", "road", "building"])
    """
    head = semantic_head or SemanticHeadConfig()
    return _made(SemanticFPN, backbone, num_classes, categories, fpn=fpn, semantic_head=head)


def panoptic_fpn(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    mask_head: MaskHeadConfig | None = None,
    semantic_head: SemanticHeadConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> PanopticFPN:
    """Build a Panoptic FPN from the name of its backbone; arguments as for :func:`faster_rcnn`.

    Args:
        num_classes, categories: the classes of objects; ``semantic_head.stuff`` names those of stuff.

    Example:
        >>> model = panoptic_fpn("resnet18", 3, semantic_head=SemanticHeadConfig(stuff=["sky", "road"]))
    """
    heads = {"rpn": rpn, "box_head": box_head, "mask_head": mask_head or MaskHeadConfig()}
    head = semantic_head or SemanticHeadConfig(loss_weight=0.5)
    return _made(PanopticFPN, backbone, num_classes, categories, fpn=fpn, **heads, semantic_head=head)


def _made(
    kind: type[D],
    backbone: str | BackboneConfig,
    num_classes: int | None,
    categories: Categories | Sequence[str] | None,
    **configs: Any,
) -> D:
    """Build a detector of a kind for classes; the other arguments are those of :func:`build_detector`."""
    categories = _categories(categories)
    model = build_detector(_checked_count(num_classes, categories), _warned_config(backbone), **configs)
    assert isinstance(model, kind)
    model.categories = categories
    return model


def _warned_config(backbone: str | BackboneConfig) -> BackboneConfig:
    config = backbone_config(backbone)
    if frozen := frozen_at_random(config):
        warnings.warn(
            f"backbone {config.name} has no weights, and {' and '.join(frozen)} would keep random values for the whole "
            f"training. Give weights='imagenet' or a file, or set norm='{learning_norm(config)}' and freeze=0. Ignore "
            "this warning if you load weights into the detector",
            stacklevel=4,  # the caller of a factory such as mask_rcnn
        )
    return config


def _categories(given: Any) -> Categories | None:
    """Make categories from a list of names; return None and categories unchanged.

    Raises:
        ValueError: the argument has another type, the list is empty, or a name occurs twice.
    """
    if given is None or isinstance(given, Categories):
        return given
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise ValueError(
            f"categories is a {type(given).__name__}; give a list of names, or detection.categories.Categories"
        )
    if not given or len(set(given)) < len(given):
        raise ValueError(f"categories {', '.join(given) or 'is empty'}: give each class its own name")
    return Categories(tuple(given), tuple(range(1, len(given) + 1)))


def _checked_count(num_classes: int | None, categories: Categories | None) -> int:
    """Return K; raise an error if ``num_classes`` and ``categories`` disagree."""
    if num_classes is None:
        return 80 if categories is None else len(categories)
    if categories is not None and num_classes != len(categories):
        raise ValueError(
            f"num_classes is {num_classes}, but the number of categories is {len(categories)}; leave num_classes out"
        )
    return num_classes

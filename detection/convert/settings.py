"""Settings, by origin, with which the weights of another toolkit reproduce its predictions.

docs/how-to/pretrained.md has a table of them.
"""

from dataclasses import dataclass, replace
from typing import Literal

from backbones import MOBILENET, BackboneConfig
from backbones.base import IMAGENET_MEAN, IMAGENET_STD
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.cascade import CascadeConfig
from detection.models.fcos import FCOSConfig
from detection.models.fpn import FPNConfig
from detection.models.keypoint_head import KeypointHeadConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.point_head import PointHeadConfig
from detection.models.retinanet import RetinaNetConfig
from detection.models.rpn import RPNConfig
from detection.models.semantic_head import SemanticHeadConfig
from detection.models.task_aligned import TaskAlignedConfig

COCO_STUFF = {
    92: "banner", 93: "blanket", 95: "bridge", 100: "cardboard", 107: "counter", 109: "curtain", 112: "door-stuff",
    118: "floor-wood", 119: "flower", 122: "fruit", 125: "gravel", 128: "house", 130: "light", 133: "mirror-stuff",
    138: "net", 141: "pillow", 144: "platform", 145: "playingfield", 147: "railroad", 148: "river", 149: "road",
    151: "roof", 154: "sand", 155: "sea", 156: "shelf", 159: "snow", 161: "stairs", 166: "tent", 168: "towel",
    171: "wall-brick", 175: "wall-stone", 176: "wall-tile", 177: "wall-wood", 178: "water-other", 180: "window-blind",
    181: "window-other", 184: "tree-merged", 185: "fence-merged", 186: "ceiling-merged", 187: "sky-other-merged",
    188: "cabinet-merged", 189: "table-merged", 190: "floor-other-merged", 191: "pavement-merged",
    192: "mountain-merged", 193: "grass-merged", 194: "dirt-merged", 195: "paper-merged", 196: "food-other-merged",
    197: "building-other-merged", 198: "rock-merged", 199: "wall-other-merged", 200: "rug-merged",
}  # fmt: skip
"""Names of the stuff in COCO's panoptic annotations, by category ID."""


@dataclass(frozen=True)
class DetectorConfig:
    """The arguments of :func:`detection.models.build.build_detector`, except for the classes."""

    backbone: BackboneConfig
    fpn: FPNConfig
    rpn: RPNConfig | None = None
    box_head: BoxHeadConfig | None = None
    mask_head: MaskHeadConfig | None = None
    retinanet: RetinaNetConfig | None = None
    fcos: FCOSConfig | None = None
    cascade: CascadeConfig | None = None
    task_aligned: TaskAlignedConfig | None = None
    semantic_head: SemanticHeadConfig | None = None
    keypoint_head: KeypointHeadConfig | None = None
    point_head: PointHeadConfig | None = None


def torchvision_config(version: int = 1, masks: bool = True, backbone: BackboneConfig | None = None) -> DetectorConfig:
    """Return the settings of torchvision's ``*_resnet50_fpn`` (1) and ``*_resnet50_fpn_v2`` (2) detectors.

    Version 2 follows Li et al. 2021, "Benchmarking detection transfer learning with vision transformers". It has norms
    in pyramid and heads, a deeper RPN head, and a box head of four convolutions and one fully connected layer.
    """
    if version not in (1, 2):
        raise ValueError(f"version is {version}; torchvision's detectors have version 1 or 2")
    norm: Literal["batch"] | None = "batch" if version == 2 else None
    return DetectorConfig(
        backbone=backbone or BackboneConfig("resnet50", norm="batch"),
        fpn=FPNConfig(norm=norm),
        rpn=RPNConfig(
            anchors=AnchorConfig(rounded=True, stride_from_canvas=True),
            convs=version,
            beta=1 / 9,
            proposals_train=2000,
        ),
        box_head=BoxHeadConfig(
            fcs=2 if version == 1 else 1, convs=0 if version == 1 else 4, norm=norm, aligned=False, beta=1 / 9
        ),
        mask_head=MaskHeadConfig(norm=norm, aligned=False, rounded_frames=True) if masks else None,
    )


def torchvision_keypoint_config(keypoints: int = 17, backbone: BackboneConfig | None = None) -> DetectorConfig:
    """Return the settings of torchvision's ``keypointrcnn_resnet50_fpn``."""
    head = KeypointHeadConfig(keypoints=keypoints, aligned=False, pixel_corners=True)
    return replace(torchvision_config(1, False, backbone), keypoint_head=head)


def torchvision_mobilenet_config(small: bool = False, backbone: BackboneConfig | None = None) -> DetectorConfig:
    """Return the settings of ``fasterrcnn_mobilenet_v3_large_fpn`` or, with ``small``, of its 320-pixel version."""
    sizes = ((32, 64, 128, 256, 512),) * 3
    return DetectorConfig(
        backbone=backbone or BackboneConfig(MOBILENET, norm="batch"),
        fpn=FPNConfig(),
        rpn=RPNConfig(
            anchors=AnchorConfig(sizes=sizes, rounded=True, stride_from_canvas=True),
            beta=1 / 9,
            proposals_train=2000,
            score_threshold=0.05,
            pre_nms_test=150 if small else 1000,
            proposals_test=150 if small else 1000,
        ),
        box_head=BoxHeadConfig(aligned=False, beta=1 / 9),
        mask_head=None,
    )


def torchvision_retinanet_config(version: int = 1, backbone: BackboneConfig | None = None) -> DetectorConfig:
    """Return the settings of torchvision's ``retinanet_resnet50_fpn`` (1) and ``retinanet_resnet50_fpn_v2`` (2)."""
    sizes = tuple(tuple(int(side * 2 ** (i / 3)) for i in range(3)) for side in (32, 64, 128, 256, 512))
    return DetectorConfig(
        backbone=backbone or BackboneConfig("resnet50", norm="batch"),
        fpn=FPNConfig(extra="conv" if version == 1 else "conv_c5", finest=3),
        retinanet=RetinaNetConfig(
            norm=None if version == 1 else "group",
            anchors=AnchorConfig(sizes=sizes, rounded=True, stride_from_canvas=True),
            box_loss="l1" if version == 1 else "giou",
            detections=300,
            min_size=0.0,
        ),
    )


def torchvision_fcos_config(backbone: BackboneConfig | None = None) -> DetectorConfig:
    """Return the settings of torchvision's ``fcos_resnet50_fpn``."""
    return DetectorConfig(
        backbone=backbone or BackboneConfig("resnet50", norm="batch"),
        fpn=FPNConfig(extra="conv", finest=3),
        fcos=FCOSConfig(
            score_threshold=0.2,
            min_size=0.0,
            weight_boxes=False,
            level_scales=False,
            offset=0.0,
            stride_from_canvas=True,
        ),
    )


def detectron2_retinanet_config(backbone: str = "resnet50", caffe: bool = True) -> DetectorConfig:
    """Return the settings of detectron2's ``retinanet_*_FPN`` models; ``caffe`` as for :func:`detectron2_config`."""
    return DetectorConfig(
        backbone=_backbone(backbone, caffe),
        fpn=FPNConfig(extra="conv_c5", finest=3),
        retinanet=RetinaNetConfig(min_size=0.0),
    )


def detectron2_config(backbone: str = "resnet50", masks: bool = True, caffe: bool = True) -> DetectorConfig:
    """Return the settings of detectron2's ``Base-RCNN-FPN`` models.

    Args:
        backbone: name of the ResNet.
        masks: whether the model has a mask head.
        caffe: whether the backbone has MSRA's layout: stride in the first 1x1, and only the mean subtracted (R-50 and
            R-101 of the zoo). False: stride in the 3x3, and division by the standard deviation (X-101-32x8d).
    """
    return DetectorConfig(
        backbone=_backbone(backbone, caffe),
        fpn=FPNConfig(),
        rpn=RPNConfig(min_size=0.0),
        box_head=BoxHeadConfig(sampling_ratio=0, min_size=0.0),
        mask_head=MaskHeadConfig(sampling_ratio=0) if masks else None,
    )


def detectron2_keypoint_config(backbone: str = "resnet50", keypoints: int = 17, caffe: bool = True) -> DetectorConfig:
    """Return the settings of detectron2's ``keypoint_rcnn_*_FPN`` models; arguments as before."""
    return replace(
        detectron2_config(backbone, False, caffe),
        rpn=RPNConfig(min_size=0.0, proposals_train=1500),
        box_head=BoxHeadConfig(sampling_ratio=0, min_size=0.0, beta=0.5),
        keypoint_head=KeypointHeadConfig(keypoints=keypoints, sampling_ratio=0),
    )


def detectron2_pointrend_config(backbone: str = "resnet50", caffe: bool = True) -> DetectorConfig:
    """Return the settings of detectron2's ``pointrend_rcnn_*_FPN`` models; arguments as before."""
    return replace(detectron2_config(backbone, False, caffe), point_head=PointHeadConfig())


def detectron2_panoptic_config(backbone: str = "resnet50", stuff: int = 53, caffe: bool = True) -> DetectorConfig:
    """Return the settings of detectron2's ``panoptic_fpn_*`` models.

    Args:
        backbone, caffe: as for :func:`detectron2_config`.
        stuff: number of classes of stuff; with 53, they get the names and IDs of COCO's.
    """
    known = COCO_STUFF if stuff == len(COCO_STUFF) else {k: f"stuff {k}" for k in range(1, stuff + 1)}
    head = SemanticHeadConfig(loss_weight=0.5, stuff=tuple(known.values()), stuff_ids=tuple(known))
    return replace(detectron2_config(backbone, True, caffe), semantic_head=head)


def detectron2_cascade_config(backbone: str = "resnet50", masks: bool = True, caffe: bool = True) -> DetectorConfig:
    """Return the settings of detectron2's ``cascade_mask_rcnn_*_FPN`` models; arguments as before."""
    one = detectron2_config(backbone, masks, caffe)
    return replace(one, rpn=RPNConfig(min_size=0.0, proposals_train=2000), cascade=CascadeConfig())


def mmdetection_config(backbone: str = "resnet50", masks: bool = True, caffe: bool = False) -> DetectorConfig:
    """Return the settings of mmdetection's ``faster-rcnn_*_fpn`` and ``mask-rcnn_*_fpn``, in caffe or pytorch style."""
    return DetectorConfig(
        backbone=_backbone(backbone, caffe),
        fpn=FPNConfig(),
        rpn=RPNConfig(min_size=0.0, clamp_both=True),
        box_head=BoxHeadConfig(sampling_ratio=0, min_size=0.0, clamp_both=True),
        mask_head=MaskHeadConfig(sampling_ratio=0) if masks else None,
    )


def mmdetection_cascade_config(backbone: str = "resnet50", masks: bool = True, caffe: bool = False) -> DetectorConfig:
    """Return the settings of mmdetection's ``cascade-rcnn_*_fpn`` and ``cascade-mask-rcnn_*_fpn``; arguments as before.

    mmdetection rounds the standard deviations of the third stage.
    """
    one = mmdetection_config(backbone, masks, caffe)
    stages = CascadeConfig(
        weights=((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067)),
        loss_weights=(1.0, 0.5, 0.25),
        scale_gradients=False,
        average="logits",
        mask_per_stage=masks,
    )
    return replace(
        one,
        rpn=RPNConfig(min_size=0.0, clamp_both=True, beta=1 / 9, proposals_train=2000),
        box_head=BoxHeadConfig(sampling_ratio=0, min_size=0.0, clamp_both=True, beta=1.0),
        cascade=stages,
    )


def _backbone(name: str, caffe: bool) -> BackboneConfig:
    std = (1.0, 1.0, 1.0) if caffe else IMAGENET_STD
    return BackboneConfig(name, norm="frozen", freeze=2, stride_in_1x1=caffe, mean=IMAGENET_MEAN, std=std)

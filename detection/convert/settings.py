"""What makes another toolkit's weights give its answers here: settings by origin."""

from dataclasses import dataclass
from typing import Literal

from backbones import BackboneConfig
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.rpn import RPNConfig


@dataclass(frozen=True)
class DetectorConfig:
    """The arguments of :func:`detection.models.rcnn.build_detector`, but for the classes."""

    backbone: BackboneConfig
    fpn: FPNConfig
    rpn: RPNConfig
    box_head: BoxHeadConfig
    mask_head: MaskHeadConfig | None


def torchvision_config(version: int = 1, masks: bool = True, backbone: BackboneConfig | None = None) -> DetectorConfig:
    """Settings of torchvision's ``*_resnet50_fpn`` (1) and ``*_resnet50_fpn_v2`` (2) detectors.

    Version 2 follows Li et al. 2021, "Benchmarking detection transfer learning with vision transformers": norms in
    the pyramid and the heads, a deeper RPN head, and a box head of four convolutions and one layer.
    """
    if version not in (1, 2):
        raise ValueError(f"torchvision has detectors of version 1 and 2, not {version}")
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
        mask_head=MaskHeadConfig(norm=norm, aligned=False) if masks else None,
    )

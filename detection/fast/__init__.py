"""Faster versions of the plain detectors: the same results up to rounding, from the same parameters.

:func:`convert` is the only entry point, and :func:`revert` undoes it; see :mod:`backbones.fast`.

Example:
    >>> from detection import fast, mask_rcnn
    >>> model = fast.convert(mask_rcnn("resnet18", num_classes=3))
"""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

import backbones.fast
from detection.fast.box_head import FastBoxHead, FastConvStack, FastRoILinear
from detection.fast.cascade import FastCascadeHead
from detection.fast.fpn import FastFPN, FastPAFPN
from detection.fast.keypoint_head import FastKeypointHead
from detection.fast.mask_head import FastMaskHead
from detection.fast.nms import nms_by_threads, nms_on_gpu
from detection.fast.point_head import FastPointHead
from detection.fast.rcnn import (
    FastCascadeMaskRCNN,
    FastCascadeRCNN,
    FastFasterRCNN,
    FastKeypointRCNN,
    FastMaskRCNN,
    FastOneStage,
    FastPanopticFPN,
    FastPointRend,
    FastSemanticFPN,
)
from detection.fast.rpn import FastRPN
from detection.models.box_head import BoxHead, RoILinear
from detection.models.cascade import CascadeHead, CascadeMaskRCNN, CascadeRCNN
from detection.models.conv_stack import ConvStack
from detection.models.fpn import FPN
from detection.models.keypoint_head import KeypointHead, KeypointRCNN
from detection.models.mask_head import MaskHead
from detection.models.necks import PAFPN
from detection.models.one_stage import OneStage
from detection.models.panoptic import PanopticFPN, SemanticFPN
from detection.models.point_head import PointHead, PointRend
from detection.models.rcnn import FasterRCNN, MaskRCNN
from detection.models.rpn import RPN
from detection.ops.nms import nms as nms_operator
from detection.ops.operators import register_kernel

FASTER: Mapping[type[nn.Module], type[nn.Module]] = {
    **backbones.fast.FASTER,
    FPN: FastFPN,
    PAFPN: FastPAFPN,
    RPN: FastRPN,
    BoxHead: FastBoxHead,
    ConvStack: FastConvStack,
    RoILinear: FastRoILinear,
    MaskHead: FastMaskHead,
    KeypointHead: FastKeypointHead,
    PointHead: FastPointHead,
    FasterRCNN: FastFasterRCNN,
    MaskRCNN: FastMaskRCNN,
    KeypointRCNN: FastKeypointRCNN,
    PointRend: FastPointRend,
    OneStage: FastOneStage,
    CascadeHead: FastCascadeHead,
    CascadeRCNN: FastCascadeRCNN,
    CascadeMaskRCNN: FastCascadeMaskRCNN,
    SemanticFPN: FastSemanticFPN,
    PanopticFPN: FastPanopticFPN,
}
"""The faster class for each plain class."""

M = TypeVar("M", bound=nn.Module)

if not backbones.fast.switch.is_off():
    register_kernel(nms_operator, "cpu", nms_by_threads)
    register_kernel(nms_operator, "cuda", nms_on_gpu)


def convert(model: M) -> M:
    """Replace the classes of a detector's parts by faster ones, in place, and return the detector.

    Parameters, names, hooks and state dicts stay the same. With ``RCNN_FAST=0`` in the environment, it does nothing.
    """
    return backbones.fast.convert(model, FASTER)


def revert(model: M) -> M:
    """Undo :func:`convert`, in place, and return the detector."""
    return backbones.fast.revert(model, FASTER)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the plain class of a module, whether it is converted or not."""
    return {fast: plain for plain, fast in FASTER.items()}.get(type(module), type(module))

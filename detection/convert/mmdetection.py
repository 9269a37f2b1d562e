"""Convert Faster, Mask and Cascade R-CNN weights of mmdetection 3.x, in pytorch and caffe styles.

Caffe-style models read BGR like detectron2's, so the conversion reverses the input channels of the first convolution.
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from detection.convert.names import Rules, rename

_RULES: Rules = [
    (r"data_preprocessor\.(mean|std)", ""),
    (r"backbone\.(.*)", r"backbone.\1"),
    (r"neck\.lateral_convs\.(\d+)\.conv\.(.*)", r"fpn.lateral.\1.0.\2"),
    (r"neck\.fpn_convs\.(\d+)\.conv\.(.*)", r"fpn.output.\1.0.\2"),
    (r"rpn_head\.rpn_conv\.(.*)", r"rpn.convs.0.\1"),
    (r"rpn_head\.rpn_cls\.(.*)", r"rpn.objectness.\1"),
    (r"rpn_head\.rpn_reg\.(.*)", r"rpn.deltas.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.(\d)\.(.*)", r"box_head.fcs.\1.\2"),
    (r"roi_head\.bbox_head\.fc_cls\.(.*)", r"box_head.logits.\1"),
    (r"roi_head\.bbox_head\.fc_reg\.(.*)", r"box_head.deltas.\1"),
    (r"roi_head\.bbox_head\.(\d)\.shared_fcs\.(\d)\.(.*)", r"box_head.stages.\1.fcs.\2.\3"),
    (r"roi_head\.bbox_head\.(\d)\.fc_cls\.(.*)", r"box_head.stages.\1.logits.\2"),
    (r"roi_head\.bbox_head\.(\d)\.fc_reg\.(.*)", r"box_head.stages.\1.deltas.\2"),
    *[(rf"roi_head\.mask_head\.convs\.{i}\.conv\.(.*)", rf"mask_head.convs.{2 * i}.\1") for i in range(4)],
    (r"roi_head\.mask_head\.upsample\.(.*)", r"mask_head.upsample.\1"),
    (r"roi_head\.mask_head\.conv_logits\.(.*)", r"mask_head.logits.\1"),
    *[
        (rf"roi_head\.mask_head\.(\d)\.convs\.{i}\.conv\.(.*)", rf"mask_head.stages.\1.convs.{2 * i}.\2")
        for i in range(4)
    ],
    (r"roi_head\.mask_head\.(\d)\.upsample\.(.*)", r"mask_head.stages.\1.upsample.\2"),
    (r"roi_head\.mask_head\.(\d)\.conv_logits\.(.*)", r"mask_head.stages.\1.logits.\2"),
]


def from_mmdetection(state: Mapping[str, Tensor], style: Literal["pytorch", "caffe"] = "pytorch") -> dict[str, Tensor]:
    """Convert the state dict of an mmdetection R-CNN to this toolkit's names and RGB input.

    Args:
        state: the state dict.
        style: configs in caffe style have ``style='caffe'`` and ``bgr_to_rgb=False``, and ``caffe`` in file names.

    Raises:
        ValueError: a key does not belong to a ResNet-FPN R-CNN of mmdetection.
    """
    ours = rename(state, _RULES, "mmdetection")
    if style == "caffe" and "backbone.conv1.weight" in ours:
        ours["backbone.conv1.weight"] = ours["backbone.conv1.weight"].flip(1)
    return ours

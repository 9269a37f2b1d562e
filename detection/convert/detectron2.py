"""Convert the weights of detectron2: R-CNNs, PointRend, RetinaNet, Panoptic FPN; ``.pkl`` of its zoo, or ``.pth``.

Its models read BGR and this toolkit RGB, so the conversion reverses the input channels of the first convolution. The
position of the background, the coordinates of boxes and the order of anchors are the same in both toolkits.
"""

from collections.abc import Mapping

from torch import Tensor

from detection.convert.names import Rules, rename
from detection.convert.one_stage import is_one_stage, retinanet_rules, sizes_fastest

_BOTTOM_UP = r"backbone\.bottom_up\."
# The second names are those of files written before 2021, as the zoo's largest two.
_COARSE = r"roi_heads\.(?:mask_head\.coarse_head|mask_coarse_head)\."
_POINT = r"roi_heads\.(?:mask_head\.point_head|mask_point_head)\."
_RULES: Rules = [
    (r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\.\d+", ""),
    (_BOTTOM_UP + r"stem\.conv1\.weight", r"backbone.conv1.weight"),
    (_BOTTOM_UP + r"stem\.conv1\.norm\.(.*)", r"backbone.bn1.\1"),
    *[
        rule
        for stage in (2, 3, 4, 5)
        for rule in (
            (rf"{_BOTTOM_UP}res{stage}\.(\d+)\.shortcut\.weight", rf"backbone.layer{stage - 1}.\1.downsample.0.weight"),
            (rf"{_BOTTOM_UP}res{stage}\.(\d+)\.shortcut\.norm\.(.*)", rf"backbone.layer{stage - 1}.\1.downsample.1.\2"),
            (rf"{_BOTTOM_UP}res{stage}\.(\d+)\.conv(\d)\.weight", rf"backbone.layer{stage - 1}.\1.conv\2.weight"),
            (rf"{_BOTTOM_UP}res{stage}\.(\d+)\.conv(\d)\.norm\.(.*)", rf"backbone.layer{stage - 1}.\1.bn\2.\3"),
            (rf"backbone\.fpn_lateral{stage}\.(weight|bias)", rf"fpn.lateral.{stage - 2}.0.\1"),
            (rf"backbone\.fpn_output{stage}\.(weight|bias)", rf"fpn.output.{stage - 2}.0.\1"),
        )
    ],
    (r"proposal_generator\.rpn_head\.conv\.(.*)", r"rpn.convs.0.\1"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(.*)", r"rpn.objectness.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(.*)", r"rpn.deltas.\1"),
    (r"roi_heads\.box_head\.fc1\.(.*)", r"box_head.fcs.0.\1"),
    (r"roi_heads\.box_head\.fc2\.(.*)", r"box_head.fcs.1.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.*)", r"box_head.logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.*)", r"box_head.deltas.\1"),
    (r"roi_heads\.box_head\.(\d)\.fc1\.(.*)", r"box_head.stages.\1.fcs.0.\2"),
    (r"roi_heads\.box_head\.(\d)\.fc2\.(.*)", r"box_head.stages.\1.fcs.1.\2"),
    (r"roi_heads\.box_predictor\.(\d)\.cls_score\.(.*)", r"box_head.stages.\1.logits.\2"),
    (r"roi_heads\.box_predictor\.(\d)\.bbox_pred\.(.*)", r"box_head.stages.\1.deltas.\2"),
    *[(rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.(.*)", rf"mask_head.convs.{2 * i}.\1") for i in range(4)],
    *[(rf"roi_heads\.keypoint_head\.conv_fcn{i + 1}\.(.*)", rf"keypoint_head.convs.{2 * i}.\1") for i in range(8)],
    (r"roi_heads\.keypoint_head\.score_lowres\.(.*)", r"keypoint_head.heatmaps.\1"),
    (_COARSE + r"reduce_channel_dim_conv\.(.*)", r"point_head.coarse.reduce.\1"),
    (_COARSE + r"reduce_spatial_dim_conv\.(.*)", r"point_head.coarse.shrink.\1"),
    (_COARSE + r"prediction\.(.*)", r"point_head.coarse.logits.\1"),
    (_POINT + r"predictor\.(.*)", r"point_head.point.logits.\1"),
    *[(rf"{_COARSE}(?:coarse_mask_)?fc{i + 1}\.(.*)", rf"point_head.coarse.fcs.{i}.\1") for i in range(2)],
    *[(rf"{_POINT}fc{i + 1}\.(.*)", rf"point_head.point.layers.{i}.\1") for i in range(3)],
    (r"roi_heads\.mask_head\.deconv\.(.*)", r"mask_head.upsample.\1"),
    *[
        rule
        for level in (2, 3, 4, 5)
        for i in range(max(1, level - 2))
        for rule in (  # every second layer enlarges
            (rf"sem_seg_head\.p{level}\.{2 * i}\.weight", rf"semantic_head.levels.{level - 2}.{i}.0.weight"),
            (rf"sem_seg_head\.p{level}\.{2 * i}\.norm\.(.*)", rf"semantic_head.levels.{level - 2}.{i}.1.\1"),
        )
    ],
    (r"sem_seg_head\.predictor\.(.*)", r"semantic_head.logits.\1"),
    (r"roi_heads\.mask_head\.predictor\.(.*)", r"mask_head.logits.\1"),
]


def from_detectron2(state: Mapping[str, Tensor], rgb: bool = False) -> dict[str, Tensor]:
    """Convert the state dict of a detectron2 R-CNN-FPN, RetinaNet, PointRend or Panoptic FPN to our names and RGB.

    Args:
        state: the state dict.
        rgb: whether the model was trained with ``INPUT.FORMAT: RGB``; the zoo's models were not.

    Raises:
        ValueError: a key does not belong to one of these detectors.
    """
    if is_one_stage(state):
        ours = rename(state, [*retinanet_rules(state), *_RULES], "detectron2")
        sizes_fastest(ours)
    else:
        ours = rename(state, _RULES, "detectron2")
    for key, value in ours.items():
        if key.startswith("point_head.point.") and value.ndim == 3:
            ours[key] = value.squeeze(2)  # a convolution over points, here a linear layer
    if not rgb and "backbone.conv1.weight" in ours:
        ours["backbone.conv1.weight"] = ours["backbone.conv1.weight"].flip(1)
    return ours

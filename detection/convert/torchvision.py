"""Convert R-CNN weights from and to torchvision.

In torchvision, the background is the first class and has a box and a mask. In this toolkit it is the last class and has
neither.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detection.convert.names import Rules, rename
from detection.models.roi_linear import as_linear

_LEGACY: Rules = [
    (r"backbone\.fpn\.inner_blocks\.(\d+)\.(weight|bias)", r"fpn.lateral.\1.0.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d+)\.(weight|bias)", r"fpn.output.\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.convs.0.\1"),
    *[(rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.(.*)", rf"mask_head.convs.{2 * i}.\1") for i in range(4)],
]
"""Names before torchvision 0.13, which its published files of 2019 and 2020 still have."""

_BODY: Rules = [
    (r"backbone\.body\.(.*)", r"backbone.\1"),
    (r"backbone\.fpn\.inner_blocks\.(.*)", r"fpn.lateral.\1"),
    (r"backbone\.fpn\.layer_blocks\.(.*)", r"fpn.output.\1"),
    (r"rpn\.head\.conv\.(\d+)\.0\.(.*)", r"rpn.convs.\1.\2"),
    (r"rpn\.head\.cls_logits\.(.*)", r"rpn.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(.*)", r"rpn.deltas.\1"),
    (r"roi_heads\.box_head\.fc6\.(.*)", r"box_head.fcs.0.\1"),
    (r"roi_heads\.box_head\.fc7\.(.*)", r"box_head.fcs.1.\1"),
    (r"roi_heads\.box_head\.5\.(.*)", r"box_head.fcs.0.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.*)", r"box_head.logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.*)", r"box_head.deltas.\1"),
    (r"roi_heads\.keypoint_head\.(\d+)\.(.*)", r"keypoint_head.convs.\1.\2"),
    (r"roi_heads\.keypoint_predictor\.kps_score_lowres\.(.*)", r"keypoint_head.heatmaps.\1"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(.*)", r"mask_head.upsample.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.*)", r"mask_head.logits.\1"),
]


def from_torchvision(state: Mapping[str, Tensor], labels: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Convert the state dict of a torchvision detector to this toolkit's names.

    Args:
        state: the state dict of ``fasterrcnn_*``, ``maskrcnn_*`` or ``keypointrcnn_*``.
        labels: torchvision's labels (1 is its first class) that become classes 0, 1, ...; None: all.

    Raises:
        ValueError: a key does not belong to a torchvision R-CNN.
    """
    ours = rename(state, [*_LEGACY, *_BODY, *_stacks(normed="roi_heads.box_head.0.1.weight" in state)], "torchvision")
    chosen = list(range(1, len(ours["box_head.logits.bias"]))) if labels is None else list(labels)
    for kind in ("weight", "bias"):
        ours[f"box_head.logits.{kind}"] = ours[f"box_head.logits.{kind}"][[*chosen, 0]]
        ours[f"box_head.deltas.{kind}"] = ours[f"box_head.deltas.{kind}"].unflatten(0, (-1, 4))[chosen].flatten(0, 1)
        if f"mask_head.logits.{kind}" in ours:
            ours[f"mask_head.logits.{kind}"] = ours[f"mask_head.logits.{kind}"][chosen]
    return ours


def to_torchvision(state: Mapping[str, Tensor], version: int = 1) -> dict[str, Tensor]:
    """Convert a state dict of this toolkit to torchvision's names; the background comes first, then all classes.

    The box and the mask of the background, which torchvision never reads, become zero.

    Args:
        state: the state dict.
        version: layout of torchvision's first (1) or ``_v2`` (2) detectors.

    Raises:
        ValueError: torchvision's layout does not have a part of this detector.
    """
    outputs = as_linear(state)
    for kind in ("weight", "bias"):
        logits, deltas = outputs[f"box_head.logits.{kind}"], outputs[f"box_head.deltas.{kind}"]
        outputs[f"box_head.logits.{kind}"] = logits.roll(1, 0)
        outputs[f"box_head.deltas.{kind}"] = torch.cat([torch.zeros_like(deltas[:4]), deltas])
        masks = outputs.get(f"mask_head.logits.{kind}")
        if masks is not None:
            outputs[f"mask_head.logits.{kind}"] = torch.cat([torch.zeros_like(masks[:1]), masks])
    return rename(outputs, _outwards(version), "torchvision's layout does not have these parts;")


def _outwards(version: int) -> Rules:
    """Return the inverse of the rules above."""
    step, fcs = (3, (r"roi_heads.box_head.5.\1",)) if version == 2 else (2, ())
    box = [(r"box_head\.fcs\.0\.(.*)", name) for name in fcs] or [
        (r"box_head\.fcs\.0\.(.*)", r"roi_heads.box_head.fc6.\1"),
        (r"box_head\.fcs\.1\.(.*)", r"roi_heads.box_head.fc7.\1"),
    ]
    return [
        (r"backbone\.(.*)", r"backbone.body.\1"),
        (r"fpn\.lateral\.(.*)", r"backbone.fpn.inner_blocks.\1"),
        (r"fpn\.output\.(.*)", r"backbone.fpn.layer_blocks.\1"),
        (r"rpn\.convs\.(\d+)\.(.*)", r"rpn.head.conv.\1.0.\2"),
        (r"rpn\.objectness\.(.*)", r"rpn.head.cls_logits.\1"),
        (r"rpn\.deltas\.(.*)", r"rpn.head.bbox_pred.\1"),
        *box,
        (r"box_head\.logits\.(.*)", r"roi_heads.box_predictor.cls_score.\1"),
        (r"box_head\.deltas\.(.*)", r"roi_heads.box_predictor.bbox_pred.\1"),
        (r"keypoint_head\.convs\.(\d*[02468])\.(.*)", r"roi_heads.keypoint_head.\1.\2"),  # odd numbers are norms
        (r"keypoint_head\.heatmaps\.(.*)", r"roi_heads.keypoint_predictor.kps_score_lowres.\1"),
        (r"mask_head\.upsample\.(.*)", r"roi_heads.mask_predictor.conv5_mask.\1"),
        (r"mask_head\.logits\.(.*)", r"roi_heads.mask_predictor.mask_fcn_logits.\1"),
        *[
            (rf"{head}\.convs\.{block * step + part}\.(.*)", rf"roi_heads.{head}.{block}.{part}.\1")
            for head in ("box_head", "mask_head")
            for block in range(4)
            for part in (0, 1)
            if part == 0 or step == 3
        ],
    ]


def _stacks(normed: bool) -> Rules:
    """Return rules for convolution stacks: torchvision numbers blocks of layers, this toolkit single layers."""
    step = 3 if normed else 2
    return [
        (rf"roi_heads\.{head}\.{block}\.{part}\.(.*)", rf"{head}.convs.{block * step + part}.\1")
        for head in ("box_head", "mask_head")
        for block in range(4)
        for part in (0, 1)
    ]

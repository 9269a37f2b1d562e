"""RetinaNet and FCOS weights from and to torchvision, RetinaNet weights of detectron2 under our names.

A anchors per cell   K classes.  Rows of class logits are A x K, the anchors slowest.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detection.convert.names import Rules, rename

SCALES = 3
"""Sizes of detectron2's anchors on a level; it counts shapes fastest, we count sizes fastest."""

NEVER = -20.0
"""Logit of the background, a class for torchvision's one-stage detectors: its score is 2e-9, below every threshold."""


def is_one_stage(state: Mapping[str, Tensor]) -> bool:
    """Return whether weights of torchvision or detectron2 are those of a one-stage detector."""
    return any(key in state for key in ("head.classification_head.cls_logits.bias", "head.cls_score.bias"))


def is_fcos(state: Mapping[str, Tensor]) -> bool:
    """Return whether torchvision's weights are those of FCOS."""
    return "head.regression_head.bbox_ctrness.bias" in state


def from_torchvision_one_stage(state: Mapping[str, Tensor], labels: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Return the state dict of torchvision's ``retinanet_*`` or ``fcos_*`` under our names.

    Args:
        labels: torchvision's labels (1 is its first class) that become our classes 0, 1, ...; all if None.

    Raises:
        ValueError: a key that none of these detectors has.
    """
    ours = rename(state, [*_PYRAMID, *_towers(state), *_OUTPUTS], "torchvision")
    # Every row of the classes counts, that of the background, which torchvision never trains, too.
    rows = len(ours["head.logits.bias"]) // (1 if is_fcos(state) else len(ours["head.deltas.bias"]) // 4)
    chosen = list(range(1, rows)) if labels is None else list(labels)
    for kind in ("weight", "bias"):
        per_anchor = ours[f"head.logits.{kind}"].unflatten(0, (-1, rows))
        ours[f"head.logits.{kind}"] = per_anchor[:, chosen].flatten(0, 1)
    return ours


def to_torchvision_one_stage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of this toolkit under the names of torchvision's ``retinanet_*`` or ``fcos_*``.

    The background comes before the classes of each anchor, and its score is zero.

    Raises:
        ValueError: torchvision's layout does not have a part of this detector.
    """
    outputs = dict(state)
    per_cell = len(state["head.deltas.bias"]) // 4 if "head.deltas.bias" in state else 1
    for kind, background in (("weight", 0.0), ("bias", NEVER)):
        per_anchor = state[f"head.logits.{kind}"].unflatten(0, (per_cell, -1))
        first = torch.full_like(per_anchor[:, :1], background)
        outputs[f"head.logits.{kind}"] = torch.cat([first, per_anchor], dim=1).flatten(0, 1)
    return rename(outputs, _outwards(state), "torchvision's layout does not have these parts;")


def retinanet_rules(state: Mapping[str, Tensor]) -> Rules:
    """Return the names of detectron2's RetinaNet behind its backbone, for :func:`rename`."""
    return [
        (r"anchor_generator\.cell_anchors\.\d+", ""),
        *[
            (rf"backbone\.fpn_{theirs}{stage}\.(weight|bias)", rf"fpn.{ours}.{stage - 3}.0.\1")
            for theirs, ours in (("lateral", "lateral"), ("output", "output"))
            for stage in (3, 4, 5)
        ],
        (r"backbone\.top_block\.p6\.(.*)", r"fpn.extra.0.0.\1"),
        (r"backbone\.top_block\.p7\.(.*)", r"fpn.extra.1.0.\1"),
        (r"head\.cls_subnet\.(\d+)\.(.*)", r"head.class_convs.\1.\2"),
        (r"head\.bbox_subnet\.(\d+)\.(.*)", r"head.box_convs.\1.\2"),
        (r"head\.cls_score\.(.*)", r"head.logits.\1"),
        (r"head\.bbox_pred\.(.*)", r"head.deltas.\1"),
    ]


def sizes_fastest(state: dict[str, Tensor]) -> None:
    """Bring the anchors of detectron2's RetinaNet into our order, in place."""
    per_cell = len(state["head.deltas.bias"]) // 4
    for layer in ("logits", "deltas"):
        for kind in ("weight", "bias"):
            anchors = state[f"head.{layer}.{kind}"].unflatten(0, (SCALES, per_cell // SCALES, -1))
            state[f"head.{layer}.{kind}"] = anchors.transpose(0, 1).flatten(0, 2)


_PYRAMID: Rules = [
    (r"backbone\.body\.(.*)", r"backbone.\1"),
    (r"backbone\.fpn\.inner_blocks\.(\d+)\.(weight|bias)", r"fpn.lateral.\1.0.\2"),  # before torchvision 0.13
    (r"backbone\.fpn\.layer_blocks\.(\d+)\.(weight|bias)", r"fpn.output.\1.0.\2"),
    (r"backbone\.fpn\.inner_blocks\.(.*)", r"fpn.lateral.\1"),
    (r"backbone\.fpn\.layer_blocks\.(.*)", r"fpn.output.\1"),
    (r"backbone\.fpn\.extra_blocks\.p6\.(.*)", r"fpn.extra.0.0.\1"),
    (r"backbone\.fpn\.extra_blocks\.p7\.(.*)", r"fpn.extra.1.0.\1"),
]
_OUTPUTS: Rules = [
    (r"head\.classification_head\.cls_logits\.(.*)", r"head.logits.\1"),
    (r"head\.regression_head\.bbox_ctrness\.(.*)", r"head.centreness.\1"),
]


def _towers(state: Mapping[str, Tensor]) -> Rules:
    """Return the rules that rename the convolutions of the head.

    FCOS and old RetinaNets number the layers, as this toolkit does; other RetinaNets number blocks of layers.
    """
    step = 3 if "head.regression_head.conv.0.1.weight" in state else 2
    boxes = "sides" if is_fcos(state) else "deltas"
    parts = (("classification", "class"), ("regression", "box"))
    return [
        *[
            (rf"head\.{theirs}_head\.conv\.{block}\.{part}\.(.*)", rf"head.{ours}_convs.{block * step + part}.\1")
            for theirs, ours in parts
            for block in range(4)
            for part in (0, 1)
        ],
        *[(rf"head\.{theirs}_head\.conv\.(\d+)\.(weight|bias)", rf"head.{ours}_convs.\1.\2") for theirs, ours in parts],
        (r"head\.regression_head\.bbox_reg\.(.*)", rf"head.{boxes}.\1"),
    ]


def _outwards(state: Mapping[str, Tensor]) -> Rules:
    """Return the inverse of the rules for torchvision."""
    has_anchors = "head.deltas.bias" in state
    step = 3 if "head.class_convs.1.weight" in state else 2
    parts = (("class", "classification"), ("box", "regression"))
    blocks = [
        (rf"head\.{ours}_convs\.{block * step + part}\.(.*)", rf"head.{theirs}_head.conv.{block}.{part}.\1")
        for ours, theirs in parts
        for block in range(4)
        for part in range(step - 1)
    ]
    layers = [(rf"head\.{ours}_convs\.(\d+)\.(.*)", rf"head.{theirs}_head.conv.\1.\2") for ours, theirs in parts]
    return [
        (r"backbone\.(.*)", r"backbone.body.\1"),
        (r"fpn\.lateral\.(.*)", r"backbone.fpn.inner_blocks.\1"),
        (r"fpn\.output\.(.*)", r"backbone.fpn.layer_blocks.\1"),
        (r"fpn\.extra\.0\.0\.(.*)", r"backbone.fpn.extra_blocks.p6.\1"),
        (r"fpn\.extra\.1\.0\.(.*)", r"backbone.fpn.extra_blocks.p7.\1"),
        *(blocks if has_anchors else layers),
        (r"head\.logits\.(.*)", r"head.classification_head.cls_logits.\1"),
        (r"head\.(?:deltas|sides)\.(.*)", r"head.regression_head.bbox_reg.\1"),
        (r"head\.centreness\.(.*)", r"head.regression_head.bbox_ctrness.\1"),
    ]

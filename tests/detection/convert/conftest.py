"""State dicts as detectron2 and mmdetection write them, from their documented names; shapes of the real models."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

BLOCKS = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "X101": (3, 4, 23, 3)}


class Numbered:
    """Hands out tensors of which no two hold the same numbers."""

    def __init__(self, device: str) -> None:
        self.device, self.next = device, 0

    def __call__(self, *shape: int) -> Tensor:
        if self.device == "meta":
            return torch.empty(shape, device="meta")
        self.next += 1
        return torch.full(shape, float(self.next))


def norm(state: dict[str, Tensor], name: str, channels: int, new: Numbered) -> None:
    for kind in ("weight", "bias", "running_mean", "running_var"):
        state[f"{name}.{kind}"] = new(channels)


def heads(
    state: dict[str, Tensor], names: dict[str, str], classes: int, new: Numbered, masks: bool, stages: int = 0
) -> None:
    """Weights and biases of everything behind the pyramid; each stage of a cascade has its own box head."""
    shapes = {
        "rpn": (256, 256, 3, 3),
        "objectness": (3, 256, 1, 1),
        "anchor_deltas": (12, 256, 1, 1),
        "fc1": (1024, 256 * 49),
        "fc2": (1024, 1024),
        "classes": (classes + 1, 1024),
        "boxes": (4 * classes, 1024),
    }
    if masks:
        shapes |= {f"mask{i}": (256, 256, 3, 3) for i in range(4)}
        shapes |= {"upsample": (256, 256, 2, 2), "masks": (classes, 256, 1, 1)}
    if stages:
        shapes["boxes"] = (4, 1024)
    for part, shape in shapes.items():
        numbers = range(stages) if "{}" in names[part] else [0]
        for name in (names[part].format(number) for number in numbers):
            state[f"{name}.weight"] = new(*shape)
            state[f"{name}.bias"] = new(shape[1] if part == "upsample" else shape[0])


def points_of(classes: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of PointRend's mask head."""
    return {
        "coarse_head.reduce_spatial_dim_conv": (256, 256, 2, 2),
        "coarse_head.fc1": (1024, 256 * 49),
        "coarse_head.fc2": (1024, 1024),
        "coarse_head.prediction": (classes * 49, 1024),
        **{f"point_head.fc{i + 1}": (256, 256 + classes, 1) for i in range(3)},
        "point_head.predictor": (classes, 256 + classes, 1),
    }


def build_detectron2(
    depth: str = "50",
    masks: bool = True,
    classes: int = 80,
    device: str = "meta",
    stages: int = 0,
    keypoints: int = 0,
    points: bool = False,
) -> dict[str, Tensor]:
    new, state = Numbered(device), {}
    body = "backbone.bottom_up"
    group_width, groups = (8, 32) if depth == "X101" else (64, 1)
    state[f"{body}.stem.conv1.weight"] = new(64, 3, 7, 7)
    norm(state, f"{body}.stem.conv1.norm", 64, new)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS[depth]):
        inner, outputs = group_width * groups * 2**stage, 256 * 2**stage
        for block in range(blocks):
            prefix = f"{body}.res{stage + 2}.{block}"
            convs = {"conv1": (inner, inputs, 1), "conv2": (inner, inner // groups, 3), "conv3": (outputs, inner, 1)}
            if block == 0:
                convs["shortcut"] = (outputs, inputs, 1)
            for conv, (out, into, kernel) in convs.items():
                state[f"{prefix}.{conv}.weight"] = new(out, into, kernel, kernel)
                norm(state, f"{prefix}.{conv}.norm", out, new)
            inputs = outputs
        for kind, into, kernel in (("lateral", outputs, 1), ("output", 256, 3)):
            state[f"backbone.fpn_{kind}{stage + 2}.weight"] = new(256, into, kernel, kernel)
            state[f"backbone.fpn_{kind}{stage + 2}.bias"] = new(256)
    number = ".{}" if stages else ""
    names = {
        "rpn": "proposal_generator.rpn_head.conv",
        "objectness": "proposal_generator.rpn_head.objectness_logits",
        "anchor_deltas": "proposal_generator.rpn_head.anchor_deltas",
        "fc1": f"roi_heads.box_head{number}.fc1",
        "fc2": f"roi_heads.box_head{number}.fc2",
        "classes": f"roi_heads.box_predictor{number}.cls_score",
        "boxes": f"roi_heads.box_predictor{number}.bbox_pred",
        **{f"mask{i}": f"roi_heads.mask_head.mask_fcn{i + 1}" for i in range(4)},
        "upsample": "roi_heads.mask_head.deconv",
        "masks": "roi_heads.mask_head.predictor",
    }
    heads(state, names, classes, new, masks, stages)
    for name, shape in points_of(classes).items() if points else ():
        state[f"roi_heads.mask_head.{name}.weight"] = new(*shape)
        state[f"roi_heads.mask_head.{name}.bias"] = new(shape[0])
    for i in range(8 if keypoints else 0):
        state[f"roi_heads.keypoint_head.conv_fcn{i + 1}.weight"] = new(512, 512 if i else 256, 3, 3)
        state[f"roi_heads.keypoint_head.conv_fcn{i + 1}.bias"] = new(512)
    if keypoints:
        state["roi_heads.keypoint_head.score_lowres.weight"] = new(512, keypoints, 4, 4)
        state["roi_heads.keypoint_head.score_lowres.bias"] = new(keypoints)
    for i in range(5):
        state[f"proposal_generator.anchor_generator.cell_anchors.{i}"] = new(3, 4)
    state["pixel_mean"], state["pixel_std"] = new(3, 1, 1), new(3, 1, 1)
    return state


def build_mmdetection(
    depth: str = "50", masks: bool = True, classes: int = 80, device: str = "meta", stages: int = 0
) -> dict[str, Tensor]:
    new, state = Numbered(device), {}
    state["backbone.conv1.weight"] = new(64, 3, 7, 7)
    norm(state, "backbone.bn1", 64, new)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS[depth]):
        inner, outputs = 64 * 2**stage, 256 * 2**stage
        for block in range(blocks):
            prefix = f"backbone.layer{stage + 1}.{block}"
            for i, (out, into, kernel) in enumerate(((inner, inputs, 1), (inner, inner, 3), (outputs, inner, 1))):
                state[f"{prefix}.conv{i + 1}.weight"] = new(out, into, kernel, kernel)
                norm(state, f"{prefix}.bn{i + 1}", out, new)
                state[f"{prefix}.bn{i + 1}.num_batches_tracked"] = new()
            if block == 0:
                state[f"{prefix}.downsample.0.weight"] = new(outputs, inputs, 1, 1)
                norm(state, f"{prefix}.downsample.1", outputs, new)
            inputs = outputs
        for kind, into, kernel in (("lateral", outputs, 1), ("fpn", 256, 3)):
            state[f"neck.{kind}_convs.{stage}.conv.weight"] = new(256, into, kernel, kernel)
            state[f"neck.{kind}_convs.{stage}.conv.bias"] = new(256)
    number = ".{}" if stages else ""
    names = {
        "rpn": "rpn_head.rpn_conv",
        "objectness": "rpn_head.rpn_cls",
        "anchor_deltas": "rpn_head.rpn_reg",
        "fc1": f"roi_head.bbox_head{number}.shared_fcs.0",
        "fc2": f"roi_head.bbox_head{number}.shared_fcs.1",
        "classes": f"roi_head.bbox_head{number}.fc_cls",
        "boxes": f"roi_head.bbox_head{number}.fc_reg",
        **{f"mask{i}": f"roi_head.mask_head{number}.convs.{i}.conv" for i in range(4)},
        "upsample": f"roi_head.mask_head{number}.upsample",
        "masks": f"roi_head.mask_head{number}.conv_logits",
    }
    heads(state, names, classes, new, masks, stages)
    return state


@pytest.fixture(scope="session")
def detectron2_state() -> Callable[..., dict[str, Tensor]]:
    return build_detectron2


@pytest.fixture(scope="session")
def mmdetection_state() -> Callable[..., dict[str, Tensor]]:
    return build_mmdetection

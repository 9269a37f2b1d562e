"""A tiny detector and batches for it."""

from typing import Any

import torch

from backbones import BackboneConfig
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.keypoint_head import KeypointHeadConfig, KeypointRCNN
from detection.models.mask_head import MaskHeadConfig
from detection.models.point_head import PointHeadConfig, PointRend
from detection.models.rcnn import FasterRCNN
from detection.models.rpn import RPNConfig
from detection.structures import IGNORE, Batch, Targets


def make_tiny(norm: str = "group") -> FasterRCNN:
    """Return a Mask R-CNN of three classes that a test may change."""
    torch.manual_seed(0)
    return build_detector(
        3,
        BackboneConfig("resnet18", norm=norm, width=16),
        FPNConfig(channels=16),
        RPNConfig(AnchorConfig(sizes=(8, 16, 32, 64, 128)), proposals_train=60, proposals_test=40, samples=64),
        BoxHeadConfig(hidden=32, samples=32, score_threshold=0.0, detections=10),
        MaskHeadConfig(convs=1, channels=16),
    )


def make_keypoints(keypoints: int = 3) -> KeypointRCNN:
    """Return a Keypoint R-CNN of three classes that a test may change."""
    parts = {name: config for name, config in make_tiny().configs.items() if name != "mask_head"}
    head = KeypointHeadConfig(keypoints=keypoints, convs=1, channels=16, resolution=7)
    torch.manual_seed(0)
    return build_detector(3, **parts, keypoint_head=head)


def make_points(**changes: Any) -> PointRend:
    """Return a PointRend of three classes that a test may change; its masks have 12 x 12 pixels."""
    parts = {name: config for name, config in make_tiny().configs.items() if name != "mask_head"}
    settings = {"channels": 16, "hidden": 32, "layer_channels": 16, "coarse": 3, "resolution": 6, "points": 20}
    torch.manual_seed(0)
    head = PointHeadConfig(**settings | {"subdivisions": 2, "subdivision_points": 12} | changes)
    return build_detector(3, **parts, point_head=head)


def with_keypoints(batch: Batch, keypoints: int = 3) -> Batch:
    """Give each object keypoints in its box, of which some are hidden and some not labelled; a crowd has none."""
    targets, generator = batch.targets, torch.Generator().manual_seed(0)
    count, room = targets.labels.shape
    low, high = targets.boxes[:, :, None, :2], targets.boxes[:, :, None, 2:]
    places = low + (high - low) * torch.rand(count, room, keypoints, 2, generator=generator)
    seen = torch.randint(0, 3, (count, room, keypoints, 1), generator=generator)
    points = torch.cat([places, seen], dim=-1) * (seen > 0)
    points[(targets.labels == IGNORE) | targets.crowd] = 0
    return batch._replace(targets=targets._replace(keypoints=points))


def make_batch(objects: list[list[tuple[list[float], int, bool]]], canvas=(96, 128), sizes=None, seed=0) -> Batch:
    """A batch of noise with objects (box, label, crowd) per image."""
    count, room = len(objects), 16
    sizes = torch.tensor(sizes or [canvas] * count)
    images = torch.randint(
        0, 255, (count, 3, *canvas), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    for image, (height, width) in zip(images, sizes.tolist(), strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    boxes, labels = torch.zeros(count, room, 4), torch.full((count, room), IGNORE)
    crowd, masks = torch.zeros(count, room, dtype=torch.bool), torch.zeros(count, room, 112, 112, dtype=torch.uint8)
    for i, image_objects in enumerate(objects):
        for j, (box, label, is_crowd) in enumerate(image_objects):
            boxes[i, j], labels[i, j], crowd[i, j] = torch.tensor(box), label, is_crowd
            masks[i, j] = 1
    return Batch(images, sizes, sizes, torch.arange(count), Targets(boxes, labels, crowd, masks))

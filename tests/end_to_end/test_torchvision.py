"""The same weights give the same answers in torchvision and here.

torchvision's detectors are initialised at random, their norm statistics taken from the images, and their predictors
scaled up until there are confident detections; then every stage is compared, on real images where there are any.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import roi_heads as tv_roi_heads
from torchvision.models.resnet import Bottleneck

from detection.convert import from_torchvision, torchvision_config
from detection.models import box_head, mask_head, rpn
from detection.models.build import build_detector
from detection.models.rcnn import FasterRCNN
from detection.structures import IGNORE, Batch, Detections, Proposals, Targets

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(224, 320), (320, 200)]
FOUND = 40
"""Detections of an image; the mask heads take most of the time."""


def real_images() -> list[Tensor]:
    """COCO images scaled to SIZES, or drawn ones where COCO is missing; (3, H, W) float in 0..255."""
    files = sorted((ROOT.parent / "shared/data/coco_mini/val2017").glob("*.jpg"))[: len(SIZES)]
    if len(files) < len(SIZES):
        noise = np.random.default_rng(0)
        drawn = [cv2.resize(noise.integers(0, 255, (12, 16, 3), np.uint8), size[::-1]) for size in SIZES]
    else:
        drawn = [cv2.resize(cv2.imread(str(f))[..., ::-1], size[::-1]) for f, size in zip(files, SIZES, strict=True)]
    return [torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() for image in drawn]


def prepare(model: nn.Module, images: list[Tensor], confidence: float = 2.0) -> nn.Module:
    """Plausible norm statistics, and predictors whose answers are as spread as trained ones.

    Args:
        confidence: standard deviation of the class logits.
    """
    for module in model.modules():
        if isinstance(module, Bottleneck):
            # As in trained networks, a block changes what passes by a little; else rounding grows with depth.
            nn.init.constant_(module.bn3.weight, 0.25)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()

    def spread(layer: nn.Module, inputs: list[Tensor], wanted: float) -> None:
        layer.weight.mul_(wanted / torch.cat([layer(x).flatten() for x in inputs]).std())

    with torch.no_grad():
        model.train()
        for image in images:
            features = model.backbone(model.transform([image])[0].tensors)
            model.rpn.head(list(features.values()))
        model.eval()
        batch = model.transform(list(images))[0]
        features = model.backbone(batch.tensors)
        hidden = [model.rpn.head.conv(level) for level in features.values()]
        spread(model.rpn.head.cls_logits, hidden, 2.0)
        spread(model.rpn.head.bbox_pred, hidden, 0.2)
        heads = model.roi_heads
        proposals, _ = model.rpn(batch, features)
        boxes = heads.box_head(heads.box_roi_pool(features, proposals, batch.image_sizes))
        spread(heads.box_predictor.cls_score, [boxes], confidence)
        spread(heads.box_predictor.bbox_pred, [boxes], 0.5)
        if heads.has_mask():
            masks = heads.mask_head(heads.mask_roi_pool(features, [p[:10] for p in proposals], batch.image_sizes))
            upsampled = heads.mask_predictor.relu(heads.mask_predictor.conv5_mask(masks))
            spread(heads.mask_predictor.mask_fcn_logits, [upsampled], 2.0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
    return model


def pair(kind: str) -> tuple[nn.Module, FasterRCNN, list[Tensor]]:
    torch.manual_seed(0)
    images = real_images()
    theirs = getattr(torchvision.models.detection, kind)(weights=None, weights_backbone=None, num_classes=21)
    theirs.transform.resize = lambda image, target=None: (image, target)  # images come at the size wanted
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    theirs.transform.normalize = lambda image: (image - mean[:, None, None]) / std[:, None, None]
    prepare(theirs, images)
    config = torchvision_config(2 if kind.endswith("v2") else 1, masks=kind.startswith("mask"))
    theirs.roi_heads.detections_per_img = FOUND
    ours = build_detector(20, **vars(config) | {"box_head": replace(config.box_head, detections=FOUND)})
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    return theirs, ours.eval(), images


@pytest.fixture(scope="module")
def mask_pair() -> tuple[nn.Module, FasterRCNN, list[Tensor]]:
    return pair("maskrcnn_resnet50_fpn")


def canvas(image: Tensor) -> tuple[Tensor, Tensor]:
    """The image alone on the smallest canvas of multiples of 32, and its size."""
    height, width = image.shape[-2:]
    padded = torch.nn.functional.pad(image, (0, -width % 32, 0, -height % 32))
    return padded[None], torch.tensor([[height, width]])


class Answer(NamedTuple):
    """What both detectors find on an image."""

    features: list[Tensor]
    expected_features: list[Tensor]
    proposals: Proposals
    expected_proposals: Tensor
    found: Detections
    expected: dict[str, Tensor]
    expected_masks: Tensor
    """Probabilities of each detection's class, before they are pasted."""


@pytest.fixture(scope="module")
def answers(mask_pair) -> list[Answer]:
    """Every stage of both detectors on each image."""
    theirs, ours, images = mask_pair
    seen: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: seen.update({name: output})

    parts = {"features": theirs.backbone, "proposals": theirs.rpn, "masks": theirs.roi_heads.mask_predictor}
    hooks = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    results = []
    with torch.no_grad():
        for image in images:
            expected = theirs([image])[0]
            padded, sizes = canvas(image)
            features = ours.features(padded, sizes)
            proposals = ours.rpn.propose(features, tuple(padded.shape[-2:]), sizes)
            found = ours(padded, sizes).image(0)
            masks = seen["masks"].sigmoid()[torch.arange(len(expected["labels"])), expected["labels"]]
            expected_features = list(seen["features"].values())
            results.append(
                Answer(features, expected_features, proposals, seen["proposals"][0][0], found, expected, masks)
            )
    for hook in hooks:
        hook.remove()
    return results


def test_features_agree(answers):
    for answer in answers:
        for level, reference in zip(answer.features, answer.expected_features, strict=True):
            assert (level - reference).abs().max() < 1e-4 * max(1, reference.abs().max())


def test_proposals_agree(answers):
    for answer in answers:
        found, expected = answer.proposals, answer.expected_proposals
        real = found.boxes[0][found.logits[0] > -torch.inf]
        # Two scores that differ by rounding alone may change places, and with them who suppresses whom.
        nearest = (real[:, None] - expected).abs().amax(dim=2).amin(dim=0)
        assert abs(len(real) - len(expected)) < 5 < 100 < len(expected)
        assert (nearest < 0.01).float().mean() > 0.99


def partners(found: Detections, expected: dict[str, Tensor]) -> Tensor:
    """For each expected detection the found one of its class with the nearest box.

    By place alone it would not do: two scores that differ by rounding may change places.
    """
    distance = (found.boxes - expected["boxes"][:, None]).abs().amax(dim=2)
    nearest = distance.masked_fill(found.labels != expected["labels"][:, None] - 1, torch.inf).min(dim=1)
    assert nearest.values.max() < 0.01
    assert len(nearest.indices.unique()) == len(found.labels) == len(expected["labels"])
    return nearest.indices


def check_detections(found: Detections, expected: dict[str, Tensor]) -> None:
    assert len(expected["scores"]) == FOUND
    same = partners(found, expected)
    assert (found.scores[same] - expected["scores"]).abs().max() < 1e-4


def test_detections_agree(answers):
    for answer in answers:
        check_detections(answer.found, answer.expected)


def test_masks_agree(answers):
    for answer in answers:
        assert answer.found.masks is not None
        same = partners(answer.found, answer.expected)
        assert (answer.found.masks[same] - answer.expected_masks).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2"])
def test_the_other_layouts_agree(kind):
    theirs, ours, images = pair(kind)
    with torch.no_grad():
        for image in images:
            check_detections(ours(*canvas(image)).image(0), theirs([image])[0])


def first_candidates(label: Tensor, num: int, fraction: float, generator=None) -> tuple[Tensor, Tensor]:
    """Instead of a random sample: the first positives, then the first negatives."""
    index = torch.zeros(len(label), num, dtype=torch.int64)
    chosen = torch.full((len(label), num), IGNORE)
    for i, row in enumerate(label):
        positive = (row == 1).nonzero()[:, 0][: int(num * fraction)]
        negative = (row == 0).nonzero()[:, 0][: num - len(positive)]
        both = torch.cat([positive, negative])
        index[i, : len(both)], chosen[i, : len(both)] = both, row[both]
    return index, chosen


class FirstCandidates:
    """The same choice in torchvision's terms: a mask of positives and one of negatives per image."""

    def __init__(self, num: int, fraction: float) -> None:
        self.num, self.fraction = num, fraction

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positives, negatives = [], []
        for label in labels:
            index, chosen = first_candidates(label.long().clamp(max=1)[None], self.num, self.fraction)
            positives.append(torch.zeros_like(label, dtype=torch.bool).index_fill(0, index[0][chosen[0] == 1], True))
            negatives.append(torch.zeros_like(label, dtype=torch.bool).index_fill(0, index[0][chosen[0] == 0], True))
        return positives, negatives


def test_losses_agree_on_the_same_samples(mask_pair, monkeypatch):
    theirs, ours, images = mask_pair
    image = images[0]
    padded, sizes = canvas(image)
    boxes = torch.tensor([[20.0, 30, 140, 160], [100, 60, 300, 220], [5, 5, 60, 50], [200, 20, 260, 90]])
    labels = torch.tensor([3, 7, 7, 0])
    frames = torch.zeros(4, *image.shape[-2:], dtype=torch.uint8)
    for frame, (left, top, right, bottom) in zip(frames, boxes.int().tolist(), strict=True):
        frame[top:bottom, left:right] = 1
        frame[top : (top + bottom) // 2, left : (left + right) // 2] = 0

    theirs.rpn.fg_bg_sampler = FirstCandidates(256, 0.5)
    theirs.roi_heads.fg_bg_sampler = FirstCandidates(512, 0.25)
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    targets: list[Tensor] = []
    project = tv_roi_heads.project_masks_on_boxes

    def remember(*arguments):
        targets.append(project(*arguments))
        return targets[-1]

    monkeypatch.setattr(tv_roi_heads, "project_masks_on_boxes", remember)
    with torch.no_grad():
        expected = theirs([image], [{"boxes": boxes, "labels": labels + 1, "masks": frames}])
    theirs.eval()

    bitmaps = torch.ones(1, 4, 112, 112, dtype=torch.uint8)
    bitmaps[:, :, :56, :56] = 0
    empty = torch.zeros(1, 12, 4)
    batch = Batch(
        padded,
        sizes,
        sizes,
        torch.tensor([1]),
        Targets(
            torch.cat([boxes[None], empty], 1),
            torch.cat([labels[None], torch.full((1, 12), IGNORE)], 1),
            torch.zeros(1, 16, dtype=torch.bool),
            torch.cat([bitmaps, torch.zeros(1, 12, 112, 112, dtype=torch.uint8)], 1),
        ),
    )

    # torchvision's mask targets are the means of sampled pixels, ours are binary: give the loss the same ones, and
    # hold the targets themselves against each other.
    crops: list[Tensor] = []
    crop = mask_head.crop_masks

    def replace(*arguments):
        crops.append(crop(*arguments))
        slots = torch.zeros_like(crops[-1])
        slots[0, : len(targets[0])] = targets[0]
        return slots

    for module in (rpn, box_head):
        monkeypatch.setattr(module, "sample", first_candidates)
    monkeypatch.setattr(mask_head, "crop_masks", replace)
    with torch.no_grad():
        losses = ours.losses(batch)
    names = {
        "loss_objectness": "loss_rpn_cls",
        "loss_rpn_box_reg": "loss_rpn_loc",
        "loss_classifier": "loss_cls",
        "loss_box_reg": "loss_box_reg",
        "loss_mask": "loss_mask",
    }
    for name, ours_name in names.items():
        assert losses[ours_name].item() == pytest.approx(expected[name].item(), abs=1e-4), name
    positives = len(targets[0])
    assert positives > 4
    assert ((targets[0] > 0.5) == (crops[0][0, :positives] > 0.5)).float().mean() > 0.97

"""torchvision's Keypoint R-CNN and ours with the same weights: files to keypoints, losses, gradients."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import KeypointRCNN as TheirKeypointRCNN
from torchvision.models.detection import keypointrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

from backbones import BackboneConfig
from detection.coco.annotations import load_annotations
from detection.convert.pretrained import coco_person, load_pretrained
from detection.convert.settings import torchvision_keypoint_config
from detection.convert.torchvision import from_torchvision
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.data.flipping import partners
from detection.data.transforms import Resize
from detection.inference import predict
from detection.models import box_head, rpn
from detection.models.build import build_detector
from detection.models.keypoint_head import KeypointRCNN
from detection.ops.keypoints import decode_keypoints
from detection.shapes import write_shapes
from detection.structures import IGNORE, Batch, Targets

sys.path.insert(0, str(Path(__file__).parent))
from test_pretrained import SIZE, as_theirs, image_files
from test_torchvision import FirstCandidates, canvas, first_candidates, prepare, real_images


def prepared(images: list[Tensor], **options: object) -> nn.Module:
    """torchvision's detector with random weights, whose answers are as spread as trained ones."""
    torch.manual_seed(0)
    model = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, **options)
    prepare(model, images, confidence=1.0)
    with torch.no_grad():
        # Wide maps, so that each has one clear maximum.
        model.roi_heads.keypoint_predictor.kps_score_lowres.weight.mul_(30)
    return model


@pytest.mark.slow
def test_a_file_gives_the_same_boxes_and_keypoints(tmp_path):
    paths = image_files(tmp_path)[:2]
    theirs = prepared([as_theirs(path) for path in paths], **SIZE, box_detections_per_img=20)
    torch.save(theirs.state_dict(), tmp_path / "keypointrcnn_resnet50_fpn.pth")
    found = load_pretrained(f"torchvision:{tmp_path / 'keypointrcnn_resnet50_fpn.pth'}")
    assert found.categories == coco_person()
    assert found.config.keypoint_head.pixel_corners
    ours = found.build()
    ours.test_size = SIZE["min_size"], SIZE["max_size"]
    ours.box_head.config = replace(ours.box_head.config, detections=20)
    for path in paths:
        with torch.no_grad():
            expected = theirs([as_theirs(path)])[0]
        answer = predict(ours, path, score_threshold=0)
        assert len(answer) == len(expected["scores"]) == 20
        distance = np.abs(answer.boxes - expected["boxes"].numpy()[:, None]).max(axis=2)
        same = distance.argmin(axis=1)
        # A score at the limit of 20 detections may change places with the next one beyond the limit.
        sure = expected["scores"].numpy() > expected["scores"].numpy().min() + 1e-4
        assert sure.sum() >= 18
        assert distance.min(axis=1)[sure].max() < 0.01
        assert np.abs(answer.scores[same] - expected["scores"].numpy())[sure].max() < 1e-4
        # torchvision's numbers are pixels of a COCO file: half a pixel to the upper left.
        apart = np.abs(answer.keypoints[same][..., :2] - 0.5 - expected["keypoints"][..., :2].numpy()).max(axis=2)[sure]
        # Two maxima of a map that differ by rounding alone may change places.
        assert (apart < 0.01).mean() > 0.98, np.sort(apart.ravel())[-20:]


@pytest.mark.slow
def test_losses_and_gradients_agree_on_the_same_samples(monkeypatch):
    images = real_images()[:1]
    theirs = prepared(images)
    theirs.transform.resize = lambda image, target=None: (image, target)  # images come at the size wanted
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    theirs.transform.normalize = lambda image: (image - mean[:, None, None]) / std[:, None, None]
    theirs.rpn.fg_bg_sampler = FirstCandidates(256, 0.5)
    theirs.roi_heads.fg_bg_sampler = FirstCandidates(512, 0.25)
    ours = ours_of(theirs)
    for model in (theirs, ours):
        model.train().double()  # rounding alone would open some ReLUs in one of them only
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    for module in (rpn, box_head):
        monkeypatch.setattr(module, "sample", first_candidates)

    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[20.0, 30, 140, 160], [100, 60, 300, 220], [5, 5, 60, 50], [200, 20, 260, 90]])
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    places = low + (high - low) * torch.rand(4, 17, 2, generator=generator)
    seen = torch.randint(0, 3, (4, 17, 1), generator=generator)
    seen[2] = 0
    points = torch.cat([places, seen], dim=2) * (seen > 0)
    target = {"boxes": boxes, "labels": torch.ones(4, dtype=torch.int64), "keypoints": points}
    expected = theirs([images[0].double()], [target | {"boxes": boxes.double()}])
    theirs.zero_grad()
    sum(expected.values()).backward()

    padded, sizes = canvas(images[0])
    room = torch.zeros(1, 16, 4), torch.full((1, 16), IGNORE), torch.zeros(1, 16, 17, 3)
    room[0][0, :4], room[1][0, :4], room[2][0, :4] = boxes, 0, points
    targets = Targets(room[0], room[1], torch.zeros(1, 16, dtype=torch.bool), keypoints=room[2])
    losses = ours.losses(Batch(padded.double(), sizes, sizes, torch.tensor([1]), targets))
    sum(losses.values()).backward()
    names = {
        "loss_objectness": "loss_rpn_cls",
        "loss_rpn_box_reg": "loss_rpn_loc",
        "loss_classifier": "loss_cls",
        "loss_box_reg": "loss_box_reg",
        "loss_keypoint": "loss_keypoint",
    }
    assert expected["loss_keypoint"] > 1
    for name, own in names.items():
        assert losses[own].item() == pytest.approx(expected[name].item(), rel=1e-4, abs=1e-4), name

    gradients = from_torchvision({name: p.grad for name, p in with_gradients(theirs)})
    compared = 0
    for name, parameter in ours.named_parameters():
        if name.startswith("keypoint_head") or name.startswith("fpn"):
            reference = gradients[name]
            assert (parameter.grad - reference).norm() <= 1e-4 * reference.norm() + 1e-6, name
            compared += 1
    assert compared == 18 + 16


def with_gradients(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """All parameters; those without a gradient get zeros, so that every key is there."""
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return list(model.named_parameters())


def ours_of(theirs: nn.Module) -> KeypointRCNN:
    ours = build_detector(1, **vars(torchvision_keypoint_config()))
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    return ours


@pytest.mark.slow
def test_heatmaps_agree():
    """The head alone, on features of one region: the logits, and where their maxima lie."""
    images = real_images()[:1]
    theirs = prepared(images)
    ours = ours_of(theirs).eval()
    regions = torch.randn(3, 256, 14, 14).relu()
    with torch.no_grad():
        heads = theirs.roi_heads
        expected = heads.keypoint_predictor(heads.keypoint_head(regions))
        found = ours.keypoint_head.upsampled(ours.keypoint_head.convs(regions))
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    boxes = torch.tensor([[0.0, 0, 56, 56]] * 3)
    cells = expected.flatten(2).argmax(dim=2)
    places = decode_keypoints(found, boxes)[..., :2]
    assert torch.equal(places, torch.stack([cells % 56, cells // 56], dim=2) + 0.5)


def small_pair() -> tuple[nn.Module, KeypointRCNN]:
    """Both detectors with the same random weights: narrow, with batch norms that train."""
    torch.manual_seed(0)
    layers = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    body = BackboneWithFPN(resnet18(weights=None), layers, [64, 128, 256, 512], 64)
    sizes = (12, 24, 48, 96, 192)
    theirs = TheirKeypointRCNN(
        body,
        None,
        num_keypoints=None,
        rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in sizes), ((0.5, 1.0, 2.0),) * 5),
        rpn_fg_iou_thresh=0.7,
        box_head=TwoMLPHead(64 * 49, 128),
        box_predictor=FastRCNNPredictor(128, 6),
        keypoint_head=KeypointRCNNHeads(64, (64,) * 4),
        keypoint_predictor=KeypointRCNNPredictor(64, 5),
    )
    theirs.transform.resize = lambda image, target=None: (image, target)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    theirs.transform.normalize = lambda image: (image - mean[:, None, None]) / std[:, None, None]
    theirs.rpn.fg_bg_sampler, theirs.roi_heads.fg_bg_sampler = FirstCandidates(64, 0.5), FirstCandidates(64, 0.25)
    config = torchvision_keypoint_config(5, BackboneConfig("resnet18", norm="batch"))
    anchors = replace(config.rpn.anchors, sizes=sizes)
    config = replace(
        config,
        fpn=replace(config.fpn, channels=64),
        rpn=replace(config.rpn, samples=64, anchors=anchors),
        box_head=replace(config.box_head, hidden=128, samples=64),
        keypoint_head=replace(config.keypoint_head, convs=4, channels=64),
    )
    ours = build_detector(5, **vars(config))
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    return theirs.train(), ours.train()


@pytest.mark.slow
def test_trainings_take_the_same_course(tmp_path, monkeypatch):
    """With SGD from random weights: the loss of the keypoints begins alike in both, and falls in both."""
    for module in (rpn, box_head):
        monkeypatch.setattr(module, "sample", first_candidates)
    write_shapes(tmp_path, 10, 1, size=96, keypoints=True)
    annotations = load_annotations(tmp_path / "annotations/instances_train.json")
    data = CocoDataset(annotations, tmp_path / "train", [Resize(96, 96)], partners=partners(annotations.categories))
    usable = [i for i in range(10) if len(annotations.boxes(i)) and not annotations.crowd(i).any()][:3]
    batch = collate([data[i] for i in usable])
    images, targets = list(batch.images.float()), []
    for boxes, labels, points in zip(batch.targets.boxes, batch.targets.labels, batch.targets.keypoints, strict=True):
        real = labels != IGNORE
        targets.append({"boxes": boxes[real], "labels": labels[real] + 1, "keypoints": points[real]})
    courses: list[list[float]] = []
    for model in small_pair():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        courses.append([])
        for _ in range(25):
            losses = model.losses(batch) if isinstance(model, KeypointRCNN) else model(images, targets)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            courses[-1].append(float(losses["loss_keypoint"].detach()))
    theirs, ours = courses
    # Later, other proposals are samples: the norms of small batches enlarge each difference in rounding.
    assert ours[:2] == pytest.approx(theirs[:2], rel=1e-4)
    assert min(theirs[0], ours[0]) > 8
    assert max(min(theirs[-5:]), min(ours[-5:])) < 5

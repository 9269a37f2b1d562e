"""RetinaNet and FCOS: losses and detections compared with loops, odd batches, export, and rejected settings."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss, nms, sigmoid_focal_loss

from backbones import BackboneConfig
from detection import fast
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.factories import fcos, retinanet
from detection.models.fcos import FCOSConfig
from detection.models.fpn import FPNConfig
from detection.models.object_masks import ObjectMaskConfig, ObjectMasks
from detection.models.one_stage import OneStage
from detection.models.retinanet import RetinaNetConfig, three_scales
from detection.models.task_aligned import TaskAlignedConfig, TaskAlignedHead
from detection.ops import boxes as box_ops
from detection.ops.losses import focal_loss
from detection.ops.matching import match
from detection.structures import IGNORE

CONFIGS = {
    "retinanet": RetinaNetConfig(convs=1, anchors=three_scales((12, 24, 48, 96, 192)), score_threshold=0.0),
    "fcos": FCOSConfig(convs=1, score_threshold=0.0),
    "task_aligned": TaskAlignedConfig(
        convs=1, score_threshold=0.0, masks=True, mask_branch=ObjectMaskConfig(convs=1, channels=64)
    ),
}
LOSSES = {
    "retinanet": ["loss_cls", "loss_box_reg"],
    "fcos": ["loss_cls", "loss_box_reg", "loss_centreness"],
    "task_aligned": ["loss_cls", "loss_box_reg", "loss_distance", "loss_mask"],
}


def make(kind: str, **changes: object) -> OneStage:
    torch.manual_seed(0)
    backbone = BackboneConfig("resnet18", norm="group", freeze=0)
    pyramid = FPNConfig(channels=64, finest=3, extra="conv")  # group norms of two channels
    model = build_detector(3, backbone, pyramid, **{kind: replace(CONFIGS[kind], **changes)})
    assert isinstance(model, OneStage)
    with torch.no_grad():  # scores that differ, as after a training
        model.head.logits.weight.mul_(30)
    return model


@pytest.fixture(params=list(CONFIGS))
def kind(request):
    return request.param


OBJECTS = [[([10.0, 10, 60, 60], 1, False), ([40.0, 30, 120, 90], 2, False)], [([5.0, 5, 30, 25], 0, False)]]


@pytest.mark.parametrize("form", [pytest.param("plain", marks=pytest.mark.slow), "fast"])
def test_everything_learns(kind, form, make_batch):
    model = make(kind).train()
    model = fast.convert(model) if form == "fast" else model
    losses = model.losses(make_batch(OBJECTS))
    assert list(losses) == LOSSES[kind]
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_faster_form_gives_the_same_numbers(kind, make_batch):
    batch, model = make_batch(OBJECTS, sizes=[(96, 128), (70, 90)]), make(kind).eval()
    with torch.no_grad():
        losses, found = model.losses(batch), model(batch.images, batch.sizes)
        fast.convert(model)
        again, other = model.losses(batch), model(batch.images, batch.sizes)
    for name, value in losses.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.scores, found.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "objects",
    [
        [[], []],
        [[([0.0, 0, 128, 96], 0, True)], [([10.0, 10, 60, 60], 1, True)]],
        [OBJECTS[0], []],
    ],
    ids=["no objects", "only crowds", "one image without"],
)
def test_odd_batches_have_finite_losses(kind, objects, make_batch):
    model = make(kind).train()
    losses = model.losses(make_batch(objects))
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    if objects != [OBJECTS[0], []]:
        assert losses["loss_box_reg"] == 0
        assert losses["loss_cls"] > 0


def test_a_thousand_objects_are_learnt(kind, make_batch):
    batch = make_batch([[], []])
    corners = torch.rand(2, 1000, 2, generator=torch.Generator().manual_seed(1)) * 90
    boxes = torch.cat([corners, corners + 6 + 20 * torch.rand(2, 1000, 2)], dim=-1)
    labels = torch.randint(0, 3, (2, 1000))
    masks = torch.ones(2, 1000, 16, 16, dtype=torch.uint8)
    targets = batch.targets._replace(boxes=boxes, labels=labels, crowd=labels < 0, masks=masks)
    losses = make(kind).losses(batch._replace(targets=targets))
    assert all(value.isfinite() and value > 0 for value in losses.values())


def test_a_larger_canvas_changes_nothing(kind, make_batch):
    model = make(kind).eval()
    batch = make_batch([OBJECTS[0]], canvas=(96, 128))
    larger = nn.functional.pad(batch.images, (0, 64, 0, 32))
    with torch.no_grad():
        # Features near the border change with the canvas: the same features tell what the head makes of the rest.
        head = model.head
        features = model.features(larger, batch.sizes)
        losses = head.losses(features, batch._replace(images=larger))
        _, scores = head.candidates(features, larger.shape[-2:], batch.sizes)
        found = model(larger, batch.sizes, features)
    assert all(value.isfinite() for value in losses.values())
    assert (scores > 0).any()
    assert (found.boxes <= torch.tensor([128.0, 96, 128, 96])).all()


def test_cells_beyond_the_image_are_no_candidates(kind, make_batch):
    model = make(kind, candidates=10_000).eval()
    batch = make_batch([[]], canvas=(128, 256), sizes=[(64, 64)])
    with torch.no_grad():
        _, scores = model.head.candidates(model.features(*batch[:2]), (128, 256), batch.sizes)
    inside = sum((64 // stride or 1) ** 2 for stride in (8, 16, 32, 64, 128))
    per_cell = 9 if kind == "retinanet" else 1
    assert (scores > 0).any(dim=2).sum() <= inside * per_cell


def test_the_losses_of_retinanet_are_those_of_a_loop(make_batch):
    model, batch = make("retinanet"), make_batch([*OBJECTS, [([0.0, 0, 64, 64], 0, True)]])
    with torch.no_grad():
        features = model.features(*batch[:2])
        losses = model.head.losses(features, batch)
        logits, deltas = (torch.cat(levels, dim=1) for levels in model.head(features))
        anchors = model.head.canvas_anchors(features, (96, 128)).boxes
        classes, boxes = [], []
        for i in range(3):
            real = batch.targets.labels[i] != IGNORE
            truth, crowd, own = (x[i][real] for x in (batch.targets.boxes, batch.targets.crowd, batch.targets.labels))
            matched, label = (x[0] for x in match(truth[None], crowd[None], anchors, 0.4, 0.5, keep_best=True))
            count = max(1, int((label == 1).sum()))
            total_class = total_box = 0.0
            for n in range(len(anchors)):
                if label[n] != IGNORE:
                    wanted = own[matched[n]] if label[n] == 1 else torch.tensor(3)
                    total_class += float(focal_loss(logits[i, n], wanted))
                if label[n] == 1:
                    target = box_ops.encode(truth[matched[n]], anchors[n])
                    total_box += float((deltas[i, n] - target).abs().sum())
            classes.append(total_class / count)
            boxes.append(total_box / count)
    assert losses["loss_cls"].item() == pytest.approx(sum(classes) / 3, rel=1e-4)
    assert losses["loss_box_reg"].item() == pytest.approx(sum(boxes) / 3, rel=1e-4)


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted boxes", "equal boxes"])
def test_the_losses_of_fcos_are_those_of_a_loop(weighted, make_batch):
    """The assignment of a cell, too: by distances and ranges, one cell and one object after another."""
    model = make("fcos", weight_boxes=weighted)
    batch = make_batch([*OBJECTS, [([0.0, 0, 64, 64], 0, True)]], sizes=[(96, 128), (50, 90), (96, 128)])
    with torch.no_grad():
        features = model.features(*batch[:2])
        losses = model.head.losses(features, batch)
        outputs = model.head(features)
    of_class, of_box, of_centre, weights, positives = 0.0, 0.0, 0.0, 0.0, 0
    limits = [0, 64, 128, 256, 512, float("inf")]
    for level, (logits, sides, centre) in enumerate(zip(*outputs, strict=True)):
        stride, columns = 8 * 2**level, features[level].shape[3]
        for i in range(3):
            height, width = ((side + 31) // 32 * 32 for side in batch.sizes[i].tolist())
            for n in range(logits.shape[1]):
                row, column = divmod(n, columns)
                if row * stride >= height or column * stride >= width:
                    continue  # beyond the image
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                chosen, is_ignored = None, False
                for (x1, y1, x2, y2), label, crowd in [*OBJECTS, [([0.0, 0, 64, 64], 0, True)]][i]:
                    distances = [x - x1, y - y1, x2 - x, y2 - y]
                    inside = min(distances) > 0
                    central = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < 1.5 * stride
                    is_ignored = is_ignored or (crowd and inside)
                    if not crowd and inside and central and limits[level] < max(distances) <= limits[level + 1]:
                        size = (x2 - x1) * (y2 - y1)
                        chosen = min(chosen or (float("inf"),), (size, label, distances, [x1, y1, x2, y2]))
                if chosen is None and is_ignored:
                    continue
                wanted = torch.zeros(3)
                if chosen is not None:
                    _, label, (left, top, right, bottom), truth = chosen
                    wanted[label] = 1
                    central = (min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)) ** 0.5
                    left, top, right, bottom = (sides[i, n] * stride).tolist()
                    box = torch.tensor([x - left, y - top, x + right, y + bottom])
                    giou = float(generalized_box_iou_loss(box, torch.tensor(truth)))
                    of_box += (central if weighted else 1) * giou
                    weights, positives = weights + (central if weighted else 1), positives + 1
                    probability = float(centre[i, n].sigmoid())
                    of_centre -= central * math.log(probability) + (1 - central) * math.log(1 - probability)
                of_class += float(sigmoid_focal_loss(logits[i, n], wanted, 0.25, 2.0).sum())
    assert positives > 10
    assert losses["loss_cls"].item() == pytest.approx(of_class / positives, rel=1e-4)
    assert losses["loss_box_reg"].item() == pytest.approx(of_box / weights, rel=1e-4)
    assert losses["loss_centreness"].item() == pytest.approx(of_centre / positives, rel=1e-4)


def test_a_narrow_group_norm_learns_from_an_image_of_one_cell(kind, make_batch):
    """P7 has one cell there, so a group of one channel would be one number: PyTorch raises an error for it."""
    torch.manual_seed(0)
    backbone, pyramid = BackboneConfig("resnet18", norm="group"), FPNConfig(channels=32, finest=3, extra="conv")
    model = build_detector(3, backbone, pyramid, **{kind: replace(CONFIGS[kind], norm="group")}).train()
    batch = make_batch([[([10.0, 10, 60, 60], 1, False)]])
    features = model.features(batch.images, batch.sizes)
    assert features[-1].shape == (1, 32, 1, 1)
    sum(model.losses(batch, features).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        conv, norm = model.head.class_convs[0], model.head.class_convs[1]
        assert (norm(conv(features[-1])) != 0).any()  # its answer depends on the image


def test_detections_are_those_of_a_loop(kind, make_batch):
    model = make(kind, candidates=50, detections=20).eval()
    batch = make_batch([[]])
    with torch.no_grad():
        features = model.features(*batch[:2])
        found = model(*batch[:2], features).image(0)
        boxes, scores = whole_maps(model, features)
        kept = [best_of_level(*level, 50) for level in zip(boxes, scores, strict=True)]
    box, score, label = (torch.cat(parts) for parts in zip(*kept, strict=True))
    box = box_ops.clip(box[None], batch.sizes)[0]
    real = (box[:, 2:] - box[:, :2]).amin(dim=1) >= 0.01
    box, score, label = box[real], score[real], label[real]
    rows = []
    for k in range(3):
        own = label == k
        stay = nms(box[own], score[own], model.head.config.nms_threshold)
        rows += [(s, k, b) for s, b in zip(score[own][stay].tolist(), box[own][stay].tolist(), strict=True)]
    rows = sorted(rows, key=lambda row: -row[0])[:20]
    # The boxes of a new task-aligned head are 16 strides wide and overlap, so that few remain.
    assert len(rows) == len(found.scores) == (4 if kind == "task_aligned" else 20)
    torch.testing.assert_close(found.scores, torch.tensor([row[0] for row in rows]))
    assert found.labels.tolist() == [row[1] for row in rows]
    torch.testing.assert_close(found.boxes, torch.tensor([row[2] for row in rows]))


def whole_maps(model: OneStage, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes (N_l, 4) and scores (N_l, K) at every place of each level, of one image on a canvas of its size."""
    head, canvas = model.head, (96, 128)
    if head.kind == "RetinaNet":
        logits, deltas = head(features)
        anchors = head.canvas_anchors(features, canvas)
        of_level = anchors.boxes.split(anchors.lengths)
        return [box_ops.decode(d[0], a) for d, a in zip(deltas, of_level, strict=True)], [
            x[0].sigmoid() for x in logits
        ]
    boxes, scores = [], []
    if head.kind == "Task-aligned detector":
        return aligned_maps(head, features)
    for level, (logit, side, centre) in enumerate(zip(*head(features), strict=True)):
        stride, (rows, columns) = head.strides[level], features[level].shape[-2:]
        x = (torch.arange(columns) + 0.5).repeat(rows) * stride
        y = (torch.arange(rows) + 0.5).repeat_interleave(columns) * stride
        left, top, right, bottom = (side[0] * stride).unbind(-1)
        boxes.append(torch.stack([x - left, y - top, x + right, y + bottom], dim=-1))
        scores.append((logit[0].sigmoid() * centre[0].sigmoid()[:, None]).sqrt())
    return boxes, scores


def aligned_maps(head: TaskAlignedHead, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    boxes, scores = [], []
    for logit, distance, stride, feature in zip(*head(features)[:2], head.strides, features, strict=True):
        rows, columns = feature.shape[-2:]
        x = (torch.arange(columns) + 0.5).repeat(rows) * stride
        y = (torch.arange(rows) + 0.5).repeat_interleave(columns) * stride
        mean = sum(distance[0].softmax(dim=-1)[..., k] * k for k in range(17)) * stride
        left, top, right, bottom = mean.unbind(-1)
        boxes.append(torch.stack([x - left, y - top, x + right, y + bottom], dim=-1))
        scores.append(logit[0].sigmoid())
    return boxes, scores


def best_of_level(boxes: Tensor, scores: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
    top, index = scores.flatten().topk(min(number, scores.numel()))
    return boxes[index // scores.shape[1]], top, index % scores.shape[1]


class Whole(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(images, sizes)[:3])


@pytest.mark.slow
def test_the_whole_detector_is_exported(kind, make_batch):
    model, given = make(kind).eval(), make_batch([[], []], sizes=[(96, 128), (70, 90)])[:2]
    with torch.no_grad():
        program = torch.export.export(Whole(model), given)
        other = make_batch([[], []], sizes=[(90, 128), (96, 101)], seed=2)[:2]
        for found, expected in zip(program.module()(*other), model(*other), strict=False):
            torch.testing.assert_close(found, expected)
    nodes = [str(node.target) for node in program.graph.nodes]
    assert nodes.count("rcnn.select_detections.default") == 1


def test_the_first_loss_is_that_of_the_prior(kind, make_batch):
    """A positive costs 1.13 with a prior of 0.01, and a negative almost nothing: no first steps are wasted on them."""
    model, batch = make(kind), make_batch(OBJECTS)
    with torch.no_grad():
        model.head.logits.weight.zero_()
        losses = model.losses(batch)
        number = sum(level[0].numel() for level in model.head(model.features(*batch[:2]))[0])
    if kind == "task_aligned":  # its positives should have the small IoU of an untrained box as their score
        assert 0 < losses["loss_cls"] < 0.5
        return
    positive, negative = -0.25 * 0.99**2 * math.log(0.01), -0.75 * 0.01**2 * math.log(0.99)
    assert positive < losses["loss_cls"] < positive + number * negative
    if kind == "fcos":
        assert losses["loss_centreness"].item() == pytest.approx(math.log(2), abs=0.05)


def test_scores_begin_at_the_prior(make_batch):
    model = build_detector(3, BackboneConfig("resnet18", norm="group"), retinanet=RetinaNetConfig(prior=0.02))
    torch.testing.assert_close(model.head.logits.bias.sigmoid(), torch.full((27,), 0.02))


@pytest.mark.parametrize(("function", "kind"), [(retinanet, "RetinaNet"), (fcos, "FCOS")])
def test_factories_build_p3_to_p7(function, kind):
    model = function(BackboneConfig("resnet18", norm="group", freeze=0), categories=["a", "b"])
    assert (model.head.kind, model.num_classes, model.categories.names) == (kind, 2, ("a", "b"))
    assert model.fpn.strides == (8, 16, 32, 64, 128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retinanet": RetinaNetConfig(), "fcos": FCOSConfig()}, "model.retinanet makes a detector without model.fcos"),
        (
            {"fcos": FCOSConfig(), "box_head": BoxHeadConfig(hidden=5)},
            "a detector without model.box_head; leave",
        ),
        ({"retinanet": RetinaNetConfig(prior=1.0)}, "prior is 1.0"),
        ({"fpn": FPNConfig(finest=6)}, "fpn.finest is 6; the backbone's coarsest stage is C5"),
        ({"fpn": FPNConfig(), "retinanet": RetinaNetConfig(anchors=three_scales((8, 16)))}, "length of sizes is 2"),
    ],
)
def test_what_makes_no_detector_is_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        build_detector(2, BackboneConfig("resnet18", norm="group"), **options)


def test_labels_beyond_the_classes_are_rejected(kind, make_batch):
    with pytest.raises(ValueError, match="label 3 is not in 0 to 2"):
        make(kind).losses(make_batch([[([10.0, 10, 60, 60], 3, False)]]))
    with pytest.raises(ValueError, match="this batch has none"):
        make(kind).losses(make_batch([[]])._replace(targets=None))


@pytest.mark.parametrize("extra", ["conv", "conv_c5"])
def test_p6_comes_from_p5_or_from_c5(extra):
    config = FPNConfig(channels=16, finest=3, extra=extra)
    model = build_detector(2, BackboneConfig("resnet18", norm="group"), config, retinanet=RetinaNetConfig())
    assert model.fpn.extra[0][0].in_channels == {"conv": 16, "conv_c5": 512}[extra]
    with torch.no_grad():
        stages = model.backbone(torch.randn(1, 3, 64, 64))
        levels = model.fpn(stages)
        source = stages[-1] if extra == "conv_c5" else levels[2]
        torch.testing.assert_close(levels[3], model.fpn.extra[0](source))
        torch.testing.assert_close(levels[4], model.fpn.extra[1](levels[3].relu()))


def test_masks_are_those_of_a_network_for_each_object():
    """The layers of an object's network, one after the other, at each cell of the grid in its box."""
    torch.manual_seed(0)
    part = ObjectMasks(8, (8, 16), ObjectMaskConfig(convs=0, channels=64, features=4, hidden=3, side=4))
    assert part.shapes == [(3, 6), (3, 3), (1, 3)]
    maps, weights = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 37)
    boxes = torch.tensor([[[8.0, 8, 40, 40], [16, 0, 48, 32]]])
    found = part(maps, weights, boxes)
    for s in range(2):
        left, top, right, bottom = boxes[0, s].tolist()
        w = weights[0, s]
        layers = [(w[:18].view(3, 6), w[18:21]), (w[21:30].view(3, 3), w[30:33]), (w[33:36].view(1, 3), w[36:])]
        for i in range(4):
            for j in range(4):
                y, x = top + (i + 0.5) * (bottom - top) / 4, left + (j + 0.5) * (right - left) / 4
                grid = torch.tensor([[[[2 * x / 64 - 1, 2 * y / 48 - 1]]]])
                value = nn.functional.grid_sample(maps, grid, align_corners=False, padding_mode="border").flatten()
                value = torch.cat([value, torch.tensor([(j + 0.5) / 2 - 1, (i + 0.5) / 2 - 1])])
                for k, (weight, bias) in enumerate(layers):
                    value = weight @ value + bias
                    value = value.relu() if k < 2 else value
                assert found[0, s, i, j].item() == pytest.approx(value.item(), abs=1e-4)


def test_masks_need_masks(make_batch):
    batch = make_batch(OBJECTS)
    with pytest.raises(ValueError, match="the mask loss needs masks"):
        make("task_aligned").losses(batch._replace(targets=batch.targets._replace(masks=None)))
    losses = make("task_aligned", masks=False).losses(batch._replace(targets=batch.targets._replace(masks=None)))
    assert "loss_mask" not in losses


def test_unknown_masks_and_crowds_do_not_count(make_batch):
    batch = make_batch(OBJECTS)
    unknown = batch.targets._replace(masks=torch.full_like(batch.targets.masks, 255))
    losses = make("task_aligned").losses(batch._replace(targets=unknown))
    assert losses["loss_mask"] == 0
    assert losses["loss_box_reg"] > 0

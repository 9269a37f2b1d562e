"""The mask head of PointRend: losses and subdivision beside slow loops, batches without masks, rejected settings."""

import math

import pytest
import torch
import torch.nn.functional as F

from detection import fast, pointrend
from detection.categories import Categories
from detection.models.build import build_detector
from detection.models.cascade import CascadeConfig
from detection.models.keypoint_head import KeypointHeadConfig
from detection.models.mask_forms import has_rounded_frames, iou_types, mask_config
from detection.models.mask_head import MaskHeadConfig
from detection.models.point_head import PointHead, PointHeadConfig, coarse_truth, point_truth
from detection.models.semantic_head import SemanticHeadConfig
from detection.structures import IGNORE, RoISamples
from tests.support import detectors

OBJECTS = [[([10.0, 10, 60, 60], 1, False), ([50.0, 20, 90, 80], 2, False)], [([5.0, 5, 70, 60], 0, True)], []]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def make_batch(objects=OBJECTS):
    """A batch whose masks are discs with a hole beside their centre."""
    batch = detectors.make_batch(objects)
    y, x = torch.meshgrid(torch.arange(112), torch.arange(112), indexing="ij")
    disc = ((x - 56) ** 2 + (y - 50) ** 2 < 45**2) & ((x - 60) ** 2 + (y - 60) ** 2 > 12**2)
    return batch._replace(targets=batch.targets._replace(masks=batch.targets.masks * disc.byte()))


def decided(model):
    """Give the head weights that make it certain of some points, and return the detector."""
    torch.manual_seed(1)
    for layer in (model.point_head.coarse.logits, model.point_head.point.logits):
        torch.nn.init.normal_(layer.weight, std=0.5)
    return model


@pytest.fixture(params=["plain", "fast"])
def model(request):
    model = detectors.make_points()
    return fast.convert(model) if request.param == "fast" else model


def slow_features(feature, box, points):
    """Features (C, P) of one image (C, h, w) at the points (P, 2) of a box, one after the other."""
    found = []
    for x, y in points.tolist():
        place = torch.stack([box[0] + x * (box[2] - box[0]), box[1] + y * (box[3] - box[1])]) / 4  # the stride of P2
        grid = 2 * place / torch.tensor([feature.shape[2], feature.shape[1]]) - 1
        found.append(F.grid_sample(feature[None], grid[None, None, None], align_corners=False).flatten())
    return torch.stack(found, dim=1)


def slow_coarse(head, feature, box):
    """Coarse logits (K, c, c) of one box."""
    side = head.config.resolution
    grid = torch.tensor([[(column + 0.5) / side, (row + 0.5) / side] for row in range(side) for column in range(side)])
    x = slow_features(feature, box, grid).view(1, -1, side, side)
    x = F.relu(F.conv2d(x, head.coarse.shrink.weight, head.coarse.shrink.bias, stride=2)).flatten()
    for fc in head.coarse.fcs:
        x = F.relu(fc.weight @ x + fc.bias)
    x = head.coarse.logits.weight @ x + head.coarse.logits.bias
    return x.view(3, head.config.coarse, head.config.coarse)


def slow_point(head, feature, box, coarse, point, label):
    """The logit of a class at one point."""
    grid = 2 * torch.as_tensor(point)[None, None, None] - 1
    rough = F.grid_sample(coarse[None], grid, align_corners=False).flatten()
    x = torch.cat([slow_features(feature, box, torch.as_tensor(point)[None])[:, 0], rough])
    for layer in head.point.layers:
        x = torch.cat([F.relu(layer.weight @ x + layer.bias), rough])
    return (head.point.logits.weight @ x + head.point.logits.bias)[label]


def slow_truth(bitmap, frame, x, y):
    """Whether a point of the canvas lies in an object, by its bitmap in the frame of its box."""
    u, v = (x - frame[0]) / (frame[2] - frame[0]) * 112, (y - frame[1]) / (frame[3] - frame[1]) * 112
    if not (0 <= u <= 112 and 0 <= v <= 112):
        return 0.0
    u, v = (min(max(value - 0.5, 0), 111) for value in (u, v))
    i, j = min(int(v), 110), min(int(u), 110)
    a, b = v - i, u - j
    values = bitmap[i : i + 2, j : j + 2].double()
    mean = (1 - a) * ((1 - b) * values[0, 0] + b * values[0, 1]) + a * ((1 - b) * values[1, 0] + b * values[1, 1])
    return float(mean >= 0.5)


def test_the_losses_are_those_of_a_loop(model):
    batch, head, config = make_batch(), decided(model).point_head, model.point_head.config
    targets, features = batch.targets, model.features(batch.images, batch.sizes)
    boxes = torch.tensor([[12.0, 8, 64, 58], [40, 20, 96, 70], [0, 0, 128, 96], [10, 10, 60, 60], [0, 0, 0, 0]])
    labels = torch.tensor([[1, 2, 3, 3, IGNORE], [3, 3, 3, IGNORE, IGNORE], [3, 3, 3, 3, 3]])
    samples = RoISamples(boxes.expand(3, 5, 4), labels, torch.tensor([0, 1, 0, 0, 0]).expand(3, 5), 4)
    found = head.losses(features, samples, targets, seeded())

    drawn, anywhere = head.draw(12, boxes.device, seeded())
    assert (drawn.shape[1], anywhere.shape[1]) == (60, 5)
    coarse_losses, point_losses = [], []
    for number, label in ((0, 1), (1, 2)):
        box, frame, bitmap = boxes[number], targets.boxes[0, number].tolist(), targets.masks[0, number]
        coarse = slow_coarse(head, features[0][0], box).detach()
        truth = torch.zeros(config.coarse, config.coarse)
        width, height = (box[2:] - box[:2]).tolist()
        for row in range(config.coarse):
            for column in range(config.coarse):
                inside = [
                    slow_truth(
                        bitmap,
                        frame,
                        float(box[0]) + width * (column + (a + 0.5) / 4) / config.coarse,
                        float(box[1]) + height * (row + (b + 0.5) / 4) / config.coarse,
                    )
                    for a in range(4)
                    for b in range(4)
                ]
                truth[row, column] = float(sum(inside) >= 8)
        assert 0 < truth.mean() < 1
        coarse_losses.append(F.binary_cross_entropy(coarse[label].sigmoid(), truth))

        def logit(point, coarse=coarse, label=label):
            grid = (2 * point - 1)[None, None, None]
            return float(F.grid_sample(coarse[label][None, None], grid, align_corners=False))

        sure = sorted(drawn[number], key=lambda point: abs(logit(point)))[:15]
        for point in [*sure, *anywhere[number]]:
            x, y = float(box[0] + point[0] * width), float(box[1] + point[1] * height)
            answer = slow_point(head, features[0][0], box, coarse, point, label).sigmoid()
            point_losses.append(F.binary_cross_entropy(answer, torch.tensor(slow_truth(bitmap, frame, x, y))))
    torch.testing.assert_close(found["loss_mask"], torch.stack(coarse_losses).mean())
    torch.testing.assert_close(found["loss_mask_point"], torch.stack(point_losses).mean())


def test_the_subdivision_is_that_of_a_loop(model):
    """From 3 x 3 cells: 12 pixels of 6 x 6, then 12 of 12 x 12, are decided at their centres."""
    batch, head = make_batch(), decided(model).point_head
    features = [x.detach() for x in model.features(batch.images, batch.sizes)]
    boxes, image = torch.tensor([[12.0, 8, 64, 58], [0, 0, 128, 96]]), torch.tensor([0, 2])
    own = torch.tensor([1, 0])
    assert head.first_side() == (3, 2)
    with torch.no_grad():
        found = head(features, boxes, image, own)
        assert found.shape == (2, 12, 12)
        for box, one, label, masks in zip(boxes, image, own, found, strict=True):
            coarse = slow_coarse(head, features[0][one], box)

            def logit(row, column, side, one=one, box=box, coarse=coarse, label=label):
                point = torch.tensor([(column + 0.5) / side, (row + 0.5) / side])
                return slow_point(head, features[0][one], box, coarse, point, label)

            mask = torch.tensor([[logit(row, column, 3) for column in range(3)] for row in range(3)])
            for side in (6, 12):
                mask = F.interpolate(mask[None, None], size=(side, side), mode="bilinear", align_corners=False)[0, 0]
                pixels = [(abs(float(mask[i, j])), i, j) for i in range(side) for j in range(side)]
                for _, i, j in sorted(pixels)[:12]:
                    mask[i, j] = logit(i, j, side)
            torch.testing.assert_close(masks, mask, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (28, 3)),  # 7, 14 and 28 have at most 784 pixels: 28 -> 56 -> 112 -> 224
        ({"subdivision_points": 100}, (7, 5)),
        ({"subdivisions": 1}, (14, 0)),
        ({"subdivisions": 0}, (7, 0)),
    ],
)
def test_doublings_that_decide_every_pixel_are_left_out(settings, expected):
    head = PointHead(8, 2, (4, 8), PointHeadConfig(hidden=8, **settings))
    assert head.first_side() == expected
    with torch.no_grad():
        masks = head(*([torch.randn(1, 8, 9, 9)],), torch.tensor([[3.0, 3, 20, 30]]), *torch.zeros(2, 1).long())
    assert masks.shape[1] == expected[0] * 2 ** expected[1]


def test_the_first_losses_are_those_of_a_coin(model):
    losses = model.losses(make_batch(), generator=seeded())
    for name in ("loss_mask", "loss_mask_point"):
        assert losses[name].item() == pytest.approx(math.log(2), abs=0.02)


@pytest.mark.parametrize(
    "objects",
    [[[], []], [[([10.0, 10, 60, 60], 1, True)], []], [[([10.0, 10, 60, 60], 1, False)], []]],
    ids=["no objects", "only crowds", "objects with unknown masks"],
)
def test_batches_without_masks_have_losses_of_zero_and_gradients(model, objects):
    batch = detectors.make_batch(objects)
    batch.targets.masks.fill_(255)
    losses = model.losses(batch, generator=seeded())
    assert (losses["loss_mask"].item(), losses["loss_mask_point"].item()) == (0, 0)
    sum(losses.values()).backward()
    for parameter in model.point_head.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() == 0


def test_gradients_are_finite_and_reach_everything(model):
    torch.manual_seed(2)
    losses = decided(model).losses(make_batch(), generator=seeded())
    (losses["loss_mask"] + losses["loss_mask_point"]).backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    own = {name for name, _ in model.named_parameters() if name.startswith("point_head.")}
    assert own <= reached
    assert {"fpn.output.0.0.weight", "fpn.lateral.3.0.weight", "backbone.conv1.weight"} <= reached
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())
    for value in model.parameters():
        value.grad = None
    model.losses(make_batch(), generator=seeded())["loss_mask_point"].backward()
    assert model.point_head.coarse.fcs[0].weight.grad.any()  # the point head reads the coarse masks


def test_a_slot_that_is_not_used_may_overflow(monkeypatch):
    """In float16 on a GPU, which computes them all."""
    model, batch = detectors.make_points(), make_batch()
    expected = model.losses(batch, generator=seeded())["loss_mask_point"]
    point_logits, spoiled = model.point_head.point_logits, []

    def every(features, boxes, image, *rest):
        spoiled.append(image > 0)  # the second image has only a crowd, the third nothing
        return torch.where((image > 0)[:, None], torch.inf, point_logits(features, boxes, image, *rest))

    monkeypatch.setattr(model.point_head, "point_logits", every)
    found = model.losses(batch, generator=seeded())["loss_mask_point"]
    assert spoiled[0].any()
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.point_head.parameters())


def test_the_generator_decides_about_the_points(model):
    decided(model)
    one, same, other = (
        model.losses(make_batch(), generator=torch.Generator().manual_seed(seed))["loss_mask_point"].item()
        for seed in (0, 0, 1)
    )
    assert one == same != other


def test_masks_are_learned_in_the_boxes_that_the_box_head_predicts(model):
    batch = make_batch()
    boxes = torch.tensor([[[10.0, 10, 30, 30], [50, 50, 90, 90], [0, 0, 20, 20]]]).expand(3, 3, 4)
    samples = RoISamples(boxes, torch.tensor([[1, 3, IGNORE]]).expand(3, 3), torch.zeros(3, 3, dtype=torch.long), 2)
    deltas = torch.zeros(3, 3, 3, 4)
    deltas[:, 0, 1, 0], deltas[:, 0, 2, 0] = 5.0, -5.0  # class 1 moves by 5 / 10 of the width
    found = model.predicted(samples, deltas, batch.sizes).boxes
    assert found[0].tolist() == [[20, 10, 40, 30], [50, 50, 90, 90], [0, 0, 20, 20]]
    agnostic = model.predicted(samples, deltas[:, :, 1:2], batch.sizes).boxes
    assert torch.equal(agnostic[:, 0], found[:, 0])


def test_only_the_setting_for_boxes_changes_the_mask_losses():
    torch.manual_seed(0)
    losses = {}
    for flag in (True, False):
        model = decided(detectors.make_points(predicted_boxes=flag))
        torch.nn.init.normal_(model.box_head.deltas.bias, std=3.0)
        losses[flag] = model.losses(make_batch(), generator=seeded())
    same = {name for name, value in losses[True].items() if torch.equal(value, losses[False][name])}
    assert "loss_mask_point" not in same


def test_unknown_masks_have_no_targets():
    batch = make_batch()
    batch.targets.masks[0, 1] = 255
    boxes = batch.targets.boxes[:1, :2]
    truth = coarse_truth(batch.targets, torch.tensor([[0, 1]]), boxes.expand(3, -1, -1), 5)[0]
    assert set(truth[0].unique().tolist()) == {0, 1}
    assert (truth[1] == -1).all()
    points = torch.tensor([[[35.0, 20], [35, 20]], [[60, 50], [0, 0]]])
    found = point_truth(batch.targets, torch.tensor([0, 1]), torch.tensor([0, 0]), points)
    assert found.tolist() == [[1, 1], [-1, -1]]


def test_detections_have_masks_of_the_last_side(model):
    batch = detectors.make_batch(OBJECTS, sizes=[(96, 128), (70, 90), (96, 101)])
    with torch.no_grad():
        found = decided(model).eval()(batch.images, batch.sizes)
    assert found.masks.shape == (3, 10, 12, 12)
    real = found.labels != IGNORE
    assert real.any()
    assert ((found.masks >= 0) & (found.masks <= 1)).all()
    assert (found.masks[real] > 0).all()
    assert found.masks[~real].abs().sum() == 0
    assert found.keypoints is None


def test_the_batch_does_not_change_masks(model):
    batch = detectors.make_batch(OBJECTS, sizes=[(96, 128), (70, 90), (96, 101)])
    with torch.no_grad():
        together = decided(model).eval()(batch.images, batch.sizes)
        for i in range(3):
            alone = model(batch.images[i : i + 1], batch.sizes[i : i + 1])
            # A pixel whose rank changes by rounding is decided or not.
            assert ((alone.masks[0] - together.masks[i]).abs() < 1e-3).float().mean() > 0.99


def test_it_is_a_detector_of_masks():
    model = pointrend("resnet10", categories=Categories(("cat", "dog"), (1, 2)))
    assert (model.num_classes, model.point_head.config) == (2, PointHeadConfig())
    assert mask_config(model) == PointHeadConfig()
    assert iou_types(model) == ["bbox", "segm"]
    assert not has_rounded_frames(model)


def test_targets_without_masks_are_rejected(model):
    batch = make_batch()
    with pytest.raises(ValueError, match="the point head needs masks"):
        model.losses(batch._replace(targets=batch.targets._replace(masks=None)))


@pytest.mark.parametrize(
    "other",
    [
        {"mask_head": MaskHeadConfig()},
        {"cascade": CascadeConfig()},
        {"keypoint_head": KeypointHeadConfig()},
        {"semantic_head": SemanticHeadConfig()},
    ],
)
def test_heads_that_do_not_go_together_are_rejected(other):
    with pytest.raises(ValueError, match=r"makes a detector without model\.(point_head|mask_head|cascade)"):
        build_detector(1, "resnet10", point_head=PointHeadConfig(), **other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coarse": 0}, "coarse is 0; it must be at least 1"),
        ({"points": 0}, "points is 0; it must be at least 1"),
        ({"subdivision_points": 0}, "subdivision_points is 0"),
        ({"hidden": 0}, "hidden is 0"),
        ({"channels": 0}, "channels is 0"),
        ({"layer_channels": 0}, "layer_channels is 0"),
        ({"resolution": 7}, "resolution is 7; it must be even"),
        ({"resolution": 0}, "resolution is 0; it must be even"),
        ({"importance": 1.5}, "importance 1.5"),
        ({"oversample": 0.5}, "oversample is 0.5"),
        ({"oversample": 101}, "oversample is 101"),
        ({"subdivisions": 8}, "subdivisions is 8: a mask of side 7 would become larger than 896 x 896"),
        ({"subdivisions": 1000000}, "would become larger than 896"),
    ],
)
def test_settings_that_make_no_head_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        PointHead(8, 2, (4, 8), PointHeadConfig(**settings))
    PointHead(8, 2, (4, 8), PointHeadConfig(hidden=8, subdivisions=7))


def test_features_of_another_width_are_reduced():
    head = PointHead(8, 2, (4, 8), PointHeadConfig(channels=16, hidden=8, layer_channels=8, fcs=1, layers=1))
    assert head.coarse.reduce.weight.shape == (16, 8, 1, 1)
    assert PointHead(8, 2, (4,), PointHeadConfig(channels=8, hidden=8)).coarse.reduce is None

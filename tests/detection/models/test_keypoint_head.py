"""The keypoint head and Keypoint R-CNN: losses beside a slow loop, batches without keypoints, configs."""

import math

import pytest
import torch
import torch.nn.functional as F

from detection import fast, keypoint_rcnn
from detection.categories import Categories, Skeleton
from detection.models.build import build_detector
from detection.models.keypoint_head import KeypointHeadConfig, keypoint_config
from detection.models.mask_head import MaskHeadConfig
from detection.structures import IGNORE, RoISamples
from tests.support import detectors

OBJECTS = [[([10.0, 10, 60, 60], 1, False), ([50.0, 20, 90, 80], 2, False)], [([5.0, 5, 70, 60], 0, True)], []]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["plain", "fast"])
def model(request):
    model = detectors.make_keypoints()
    return fast.convert(model) if request.param == "fast" else model


def test_the_loss_is_that_of_a_loop(model):
    batch = detectors.with_keypoints(detectors.make_batch(OBJECTS))
    targets, head = batch.targets, model.keypoint_head
    torch.nn.init.normal_(head.heatmaps.weight)
    features = model.features(batch.images, batch.sizes)
    boxes = torch.tensor([[12.0, 8, 64, 58], [40, 20, 80, 70], [0, 0, 128, 96], [10, 10, 60, 60], [0, 0, 0, 0]])
    labels = torch.tensor([[1, 2, 3, 3, IGNORE], [3, 3, 3, IGNORE, IGNORE], [3, 3, 3, 3, 3]])
    samples = RoISamples(boxes.expand(3, 5, 4), labels, torch.tensor([0, 1, 0, 0, 0]).expand(3, 5), 4)
    found = head.losses(features, samples, targets)["loss_keypoint"]

    total, count = 0.0, 0
    with torch.no_grad():
        every = head(features, samples.boxes, torch.ones(3, 5, dtype=torch.bool))
    for image in range(3):
        for s in range(4):
            if not 0 <= labels[image, s] < 3:
                continue
            x0, y0, x1, y1 = samples.boxes[image, s].tolist()
            for n, (x, y, seen) in enumerate(targets.keypoints[image, int(samples.matched[image, s])].tolist()):
                if seen == 0 or not (x0 <= x < x1 and y0 <= y < y1):
                    continue
                cell = math.floor((y - y0) / (y1 - y0) * 28) * 28 + math.floor((x - x0) / (x1 - x0) * 28)
                total -= float(every[image, s, n].flatten().log_softmax(0)[cell])
                count += 1
    assert 2 <= count <= 6
    assert found.item() == pytest.approx(total / count, rel=1e-4)


def test_an_untrained_head_knows_nothing():
    """The first loss is near that of equal probabilities, ln(56 * 56)."""
    torch.manual_seed(0)
    model = keypoint_rcnn("resnet10")
    assert model.keypoint_head.side == 56
    x = torch.randn(4, 512, 14, 14).relu() * 0.1
    heatmaps = model.keypoint_head.upsampled(x)
    assert heatmaps.shape == (4, 17, 56, 56)
    loss = F.cross_entropy(heatmaps.flatten(0, 1).flatten(1), torch.arange(68))
    assert float(loss) == pytest.approx(math.log(56 * 56), rel=0.05)


@pytest.mark.parametrize(
    "objects",
    [
        [[], []],
        [[([10.0, 10, 60, 60], 1, True)], [([5.0, 5, 70, 60], 0, True)]],
        [[([10.0, 10, 60, 60], 1, False)], []],
    ],
    ids=["no objects", "only crowds", "objects without keypoints"],
)
def test_batches_without_keypoints_have_a_loss_of_zero_and_gradients(model, objects):
    batch = detectors.with_keypoints(detectors.make_batch(objects))
    batch.targets.keypoints.zero_()
    losses = model.losses(batch, generator=seeded())
    assert float(losses["loss_keypoint"]) == 0
    sum(losses.values()).backward()
    for parameter in model.keypoint_head.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() == 0


def test_a_slot_that_is_not_used_may_overflow(monkeypatch):
    """In float16 on a GPU, which computes them all."""
    model = detectors.make_keypoints()
    batch = detectors.with_keypoints(detectors.make_batch(OBJECTS))
    expected = model.losses(batch, generator=seeded())["loss_keypoint"]
    assert expected > 1
    forward = model.keypoint_head.forward

    def every(features, rois, used):
        assert not used.all()
        return torch.where(used[..., None, None, None], forward(features, rois, used), torch.inf)

    monkeypatch.setattr(model.keypoint_head, "forward", every)
    found = model.losses(batch, generator=seeded())["loss_keypoint"]
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(p.grad.isfinite().all() for p in model.keypoint_head.parameters())


def test_detections_have_keypoints_in_their_boxes(model):
    batch = detectors.make_batch(OBJECTS, sizes=[(96, 128), (70, 90), (96, 101)])
    with torch.no_grad():
        found = model.eval()(batch.images, batch.sizes)
    assert found.keypoints.shape == (3, 10, 3, 3)
    real = found.labels != IGNORE
    assert real.any()
    places, boxes = found.keypoints[real], found.boxes[real]
    assert (places[..., :2] >= boxes[:, None, :2]).all()
    assert (places[..., :2] <= boxes[:, None, 2:] + 1).all()
    assert ((places[..., 2] > 0) & (places[..., 2] <= 1.5)).all()
    assert found.keypoints[~real].abs().sum() == 0
    assert found.masks is None
    assert found.image(0).keypoints.shape[0] == int(real[0].sum())


def test_the_batch_does_not_change_keypoints(model):
    batch = detectors.make_batch(OBJECTS, sizes=[(96, 128), (70, 90), (96, 101)])
    with torch.no_grad():
        together = model.eval()(batch.images, batch.sizes)
        for i in range(3):
            alone = model(batch.images[i : i + 1], batch.sizes[i : i + 1])
            torch.testing.assert_close(alone.keypoints[0, ..., 2], together.keypoints[i, ..., 2], atol=1e-4, rtol=1e-3)


def test_targets_without_keypoints_or_with_another_number_are_rejected(model):
    batch = detectors.make_batch(OBJECTS)
    with pytest.raises(ValueError, match="the keypoint head needs keypoints"):
        model.losses(batch)
    with pytest.raises(ValueError, match="targets have 4 keypoints, the detector 3"):
        model.losses(detectors.with_keypoints(batch, 4))


def test_the_factory_takes_the_number_from_the_categories():
    people = Categories(("dog", "person"), (1, 2), (Skeleton(("nose",)), Skeleton(("nose", "left", "right"))))
    model = keypoint_rcnn("resnet10", categories=people)
    assert (model.num_classes, model.keypoint_head.config.keypoints) == (2, 3)
    assert keypoint_config(model) == KeypointHeadConfig(keypoints=3)
    assert keypoint_rcnn("resnet10").num_classes == 1
    assert keypoint_rcnn("resnet10", num_classes=4).num_classes == 4
    assert keypoint_config(detectors.make_tiny()) is None


def test_a_mask_head_is_rejected():
    with pytest.raises(ValueError, match=r"model\.keypoint_head makes a detector without model\.mask_head"):
        build_detector(1, "resnet10", mask_head=MaskHeadConfig(), keypoint_head=KeypointHeadConfig())


@pytest.mark.slow
def test_torch_export_sees_one_node():
    model = detectors.make_keypoints().eval()
    images, sizes = torch.zeros(1, 3, 96, 128, dtype=torch.uint8), torch.tensor([[96, 128]])
    with torch.no_grad():
        program = torch.export.export(model, (images, sizes), strict=False)
        found, expected = program.module()(images, sizes), model(images, sizes)
    assert any("decode_keypoints" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(found.keypoints, expected.keypoints)

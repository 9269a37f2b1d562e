import pytest
import torch

from backbones import Backbone, BackboneConfig
from detection import build_detector, faster_rcnn, mask_rcnn
from detection.categories import Categories
from detection.models.box_head import BoxHeadConfig
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.rcnn import FasterRCNN, MaskRCNN
from detection.models.rpn import RPNConfig
from detection.structures import IGNORE

A_BOX, ANOTHER, CROWD = ([10.0, 10, 60, 60], 1, False), ([50.0, 20, 90, 80], 2, False), ([0.0, 0, 128, 96], 1, True)
NAMES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}


@pytest.mark.parametrize(
    "objects",
    [[[A_BOX, ANOTHER]], [[]], [[CROWD]], [[A_BOX], [], [CROWD, ANOTHER]], [[], [CROWD]]],
    ids=["objects", "no object", "only a crowd", "all kinds", "nothing to find"],
)
def test_a_step_on_any_batch_is_finite_and_reaches_every_parameter(tiny, make_batch, objects):
    losses = tiny.train().losses(make_batch(objects))
    assert set(losses) == NAMES
    sum(losses.values()).backward()
    for name, parameter in tiny.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_only_an_object_gives_box_and_mask_losses(tiny, make_batch):
    losses = tiny.losses(make_batch([[], [CROWD]]))
    assert losses["loss_rpn_loc"] == losses["loss_box_reg"] == losses["loss_mask"] == 0
    assert losses["loss_rpn_cls"] > 0


def test_bad_batches_are_reported(tiny, make_batch):
    batch = make_batch([[([10.0, 10, 60, 60], 3, False)]])
    with pytest.raises(ValueError, match="label 3 is not in 0 to 2"):
        tiny.losses(batch)
    with pytest.raises(ValueError, match=r"needs masks; .*masks=True"):
        tiny.losses(make_batch([[]])._replace(targets=make_batch([[]]).targets._replace(masks=None)))
    with pytest.raises(ValueError, match="this batch has none"):
        faster_rcnn("resnet18", 3).losses(batch._replace(targets=None))


def test_anchors_in_a_crowd_are_neither_positive_nor_negative(tiny, make_batch):
    # The crowd covers the image and what hangs over is clipped by no one: anchors mostly inside it must not count.
    everywhere = ([-400.0, -400, 600, 600], 1, True)
    losses = tiny.losses(make_batch([[everywhere]]))
    assert losses["loss_rpn_cls"] == 0


def test_detections_are_sorted_inside_the_image_and_padded(tiny, make_batch):
    batch = make_batch([[], []], sizes=[(96, 128), (70, 90)])
    with torch.no_grad():
        found = tiny.eval()(batch.images, batch.sizes)
    assert found.boxes.shape == (2, 10, 4)
    assert found.masks.shape == (2, 10, 28, 28)
    assert (found.scores.diff(dim=1) <= 0).all()
    for i, (height, width) in enumerate(batch.sizes.tolist()):
        one = found.image(i)
        assert len(one.scores) > 0
        assert (one.boxes >= 0).all()
        assert (one.boxes[:, 0::2] <= width).all()
        assert (one.boxes[:, 1::2] <= height).all()
        assert ((one.labels >= 0) & (one.labels < 3)).all()
        assert ((one.masks >= 0) & (one.masks <= 1)).all()
    padding = found.labels == IGNORE
    assert (found.boxes[padding] == 0).all()
    assert (found.scores[padding] == 0).all()


def test_a_batch_gives_what_its_images_give_alone(tiny, make_batch):
    batch = make_batch([[], []], sizes=[(96, 128), (70, 90)])
    with torch.no_grad():
        together = tiny.eval()(batch.images, batch.sizes)
        for i in range(2):
            alone = tiny(batch.images[i : i + 1], batch.sizes[i : i + 1]).image(0)
            one = together.image(i)
            torch.testing.assert_close(alone.boxes, one.boxes, atol=1e-3, rtol=0)
            torch.testing.assert_close(alone.scores, one.scores, atol=1e-5, rtol=0)
            torch.testing.assert_close(alone.masks, one.masks, atol=1e-4, rtol=0)


def test_losses_and_detections_share_what_was_computed_of_the_images(tiny, make_batch):
    batch = make_batch([[A_BOX, ANOTHER]])
    tiny.eval()
    with torch.no_grad():
        features = tiny.features(batch.images, batch.sizes)
        seeded = [torch.Generator().manual_seed(3) for _ in range(2)]
        alone, shared = tiny.losses(batch, generator=seeded[0]), tiny.losses(batch, features, seeded[1])
        assert all(torch.equal(alone[name], shared[name]) for name in NAMES)
        once, again = tiny(batch.images, batch.sizes), tiny(batch.images, batch.sizes, features)
        assert all(torch.equal(*pair) for pair in zip(once[:4], again[:4], strict=True))


def test_padding_is_zero_after_normalising(tiny):
    images = torch.full((1, 3, 64, 64), 200, dtype=torch.uint8)
    x = tiny.normalise(images, torch.tensor([[40, 50]]))
    assert (x[:, :, 40:] == 0).all()
    assert (x[..., 50:] == 0).all()
    assert x[0, 0, 0, 0].item() == pytest.approx((200 - 123.675) / 58.395)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_normalising_is_a_mean_and_a_deviation_for_each_channel(tiny, dtype, format):
    images = torch.randint(0, 256, (2, 3, 32, 64), generator=torch.Generator().manual_seed(0))
    images = images.to(dtype).contiguous(memory_format=format)
    given = images.clone()
    x = tiny.normalise(images, torch.tensor([[20, 64], [32, 41]]))
    assert torch.equal(images, given)
    plain = (images.float() / (257 if dtype == torch.uint16 else 1) - tiny.pixel_mean) / tiny.pixel_std
    plain[0, :, 20:] = plain[1, :, :, 41:] = 0
    assert torch.equal(x, plain)


def test_names_build_the_two_detectors():
    mask, faster = mask_rcnn("resnet18", num_classes=2), faster_rcnn("resnet18", num_classes=2)
    assert type(mask) is MaskRCNN
    assert type(faster) is FasterRCNN
    assert mask.num_classes == faster.num_classes == 2


def test_no_class_is_rejected():
    with pytest.raises(ValueError, match="must be at least 1"):
        mask_rcnn("resnet18", num_classes=0)


def test_a_detector_keeps_its_configs():
    config = BackboneConfig("resnet10")
    with torch.device("meta"):
        built, named = build_detector(2, config, mask_head=MaskHeadConfig(convs=1)), faster_rcnn("resnet10", 2)
    assert built.configs == {
        "backbone": config,
        "fpn": FPNConfig(),
        "rpn": RPNConfig(),
        "box_head": BoxHeadConfig(),
        "mask_head": MaskHeadConfig(convs=1),
    }
    assert named.configs == built.configs | {"mask_head": None}


@pytest.mark.parametrize("make", [faster_rcnn, mask_rcnn])
def test_categories_give_the_number_of_classes(make):
    categories = Categories(("cat", "dog"), (3, 9))
    with torch.device("meta"):
        model = make("resnet10", categories=categories)
        assert (model.num_classes, model.categories) == (2, categories)
        assert (make("resnet10").num_classes, make("resnet10", 3).num_classes) == (80, 3)
    with pytest.raises(ValueError, match="num_classes is 3, but the number of categories is 2"):
        make("resnet10", 3, categories=categories)


@pytest.mark.parametrize("wrong", [Backbone(), Backbone, None])
def test_what_is_no_name_or_config_of_a_backbone_is_rejected(wrong):
    with pytest.raises(ValueError, match=r"backbone is a .*; give a name, a BackboneConfig, .* import path"):
        mask_rcnn(wrong)


def test_a_name_is_enough_for_a_backbone():
    with torch.device("meta"):
        assert build_detector(3, "resnet10").configs["backbone"] == BackboneConfig("resnet10")


@pytest.mark.parametrize("shape", [(1, 4, 64, 64), (1, 1, 64, 64), (3, 64, 64)])
def test_images_of_another_shape_are_rejected(tiny, shape):
    with pytest.raises(ValueError, match=r"images are \(.*\); this model needs \(B, 3, H, W\)"):
        tiny(torch.zeros(shape, dtype=torch.uint8), torch.tensor([[64, 64]]))


def test_means_and_deviations_may_be_integers():
    config = BackboneConfig("resnet10", width=8, mean=(0, 0, 0), std=(2, 2, 2))
    model = build_detector(2, config, FPNConfig(channels=8), None, BoxHeadConfig(hidden=8))
    white = model.normalise(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), torch.tensor([[32, 32]]))
    assert white.dtype == torch.float32
    assert (white == 127.5).all()

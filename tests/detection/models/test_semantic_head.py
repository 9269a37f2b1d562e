"""The semantic head beside a plain loop, the detectors that have one, and settings that do not fit."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones import BackboneConfig
from detection import fast
from detection.checkpoint import load_model, save_model
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.cascade import CascadeConfig
from detection.models.factories import panoptic_fpn, semantic_fpn
from detection.models.fcos import FCOSConfig
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.panoptic import PanopticFPN, SemanticFPN
from detection.models.semantic_head import SemanticHead, SemanticHeadConfig
from detection.structures import UNLABELLED, Batch
from tests.support import detectors

OBJECTS = [[([10.0, 10, 60, 60], 1, False), ([40.0, 30, 120, 90], 2, False)], [([5.0, 5, 30, 25], 0, False)]]
HEAD = SemanticHeadConfig(channels=16)


def panoptic(stuff: tuple[str, ...] = ("sky", "road")) -> PanopticFPN:
    parts = detectors.make_tiny().configs
    model = build_detector(3, **parts, semantic_head=replace(HEAD, stuff=stuff))
    assert isinstance(model, PanopticFPN)
    return model


def semantic(classes: int = 3) -> SemanticFPN:
    torch.manual_seed(0)
    backbone = BackboneConfig("resnet18", norm="group", width=16)
    model = build_detector(classes, backbone, FPNConfig(channels=16), semantic_head=HEAD)
    assert isinstance(model, SemanticFPN)
    return model


def make_batch(objects=OBJECTS, **options) -> Batch:
    batch = detectors.make_batch(objects, **options)
    maps = torch.randint(0, 3, batch.images[:, 0].shape, generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    for one, (height, width) in zip(maps, batch.sizes.tolist(), strict=True):
        one[height:], one[:, width:] = UNLABELLED, UNLABELLED
    return batch._replace(targets=batch.targets._replace(semantic=maps))


@pytest.fixture(params=[semantic, panoptic], ids=["semantic", "panoptic"])
def model(request):
    return request.param()


def test_the_head_is_the_figure_of_the_paper():
    """3x3 convolution, norm, ReLU, twice as large: none for P2, one for P3, two for P4, three for P5; then the sum."""
    torch.manual_seed(0)
    head = SemanticHead(8, 5, (4, 8, 16, 32), SemanticHeadConfig(channels=16))
    for norm in (one for one in head.modules() if isinstance(one, nn.GroupNorm)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    features = [torch.randn(2, 8, 48 // 2**i, 32 // 2**i) for i in range(5)]  # of which P6 is not used
    total = 0
    for level, x in zip(head.levels, features, strict=False):
        for conv, norm, _ in level:
            x = F.relu(F.group_norm(F.conv2d(x, conv.weight, conv.bias, padding=1), 16, norm.weight, norm.bias))
            if x.shape[2] < 48:
                x = F.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="bilinear", align_corners=False)
        total = total + x
    expected = F.conv2d(total, head.logits.weight, head.logits.bias)
    assert [len(level) for level in head.levels] == [1, 1, 2, 3]
    torch.testing.assert_close(head(features), expected)


def test_convolutions_before_a_norm_have_no_bias_and_32_groups():
    head = SemanticHead(256, 54, (4, 8, 16, 32), SemanticHeadConfig())
    convs = [one for one in head.modules() if isinstance(one, nn.Conv2d)]
    assert [conv.bias is None for conv in convs] == [True] * 7 + [False]
    assert {norm.num_groups for norm in head.modules() if isinstance(norm, nn.GroupNorm)} == {32}


@pytest.mark.parametrize("form", [fast.revert, fast.convert])
def test_everything_learns(model, form):
    losses = form(model).train().losses(make_batch())
    assert list(losses)[-1] == "loss_semantic"
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_faster_form_gives_the_same_numbers(model):
    batch = make_batch(sizes=[(96, 128), (70, 90)])
    results = []
    for form in (fast.revert, fast.convert):
        form(model).zero_grad()
        losses = model.train().losses(batch, generator=torch.Generator().manual_seed(0))
        sum(losses.values()).backward()
        with torch.no_grad():
            found = model.eval()(batch.images, batch.sizes)
        results.append([*losses.values(), *(p.grad for p in model.parameters()), found.semantic, found.scores])
    for plain, faster in zip(*results, strict=True):
        torch.testing.assert_close(faster, plain, rtol=1e-3, atol=1e-4)


def test_a_panoptic_fpn_is_a_mask_rcnn_with_a_semantic_loss():
    model, batch = panoptic().eval(), make_batch()
    other = detectors.make_tiny().eval()
    other.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("semantic_head")})
    with torch.no_grad():
        mine, theirs = (m.losses(batch, generator=torch.Generator().manual_seed(0)) for m in (model, other))
        found, expected = (m(batch.images, batch.sizes) for m in (model, other))
    assert {k: v for k, v in mine.items() if k != "loss_semantic"} == theirs
    assert all(torch.equal(a, b) for a, b in zip(found[:4], expected[:4], strict=True))
    assert found.semantic.shape == (2, 3, 24, 32)


def test_a_semantic_fpn_finds_no_objects():
    found = semantic()(make_batch().images, make_batch().sizes)
    assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((2, 0, 4), (2, 0), (2, 0))
    assert len(found.image(1).labels) == 0


@pytest.mark.parametrize(
    "objects",
    [[[], []], [[([10.0, 10, 60, 60], 1, True)], [([5.0, 5, 30, 25], 0, True)]]],
    ids=["no objects", "only crowds"],
)
def test_images_without_objects_or_labels_train(model, objects):
    batch = make_batch(objects)
    batch.targets.semantic[0] = UNLABELLED
    losses = model.train().losses(batch)
    assert float(losses["loss_semantic"].detach()) > 0
    batch.targets.semantic[:] = UNLABELLED
    losses = model.losses(batch)
    assert float(losses["loss_semantic"].detach()) == 0
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_weight_scales_the_loss():
    model, batch = semantic().eval(), make_batch()
    once = model.losses(batch)["loss_semantic"]
    model.semantic_head.config = replace(HEAD, loss_weight=0.5)
    torch.testing.assert_close(model.losses(batch)["loss_semantic"], once / 2)


def test_a_checkpoint_keeps_the_classes(model, tmp_path):
    batch = make_batch()
    save_model(model.eval(), tmp_path / "model.ckpt")
    again, _ = load_model(tmp_path / "model.ckpt")
    assert type(again) is type(model)
    assert again.semantic_categories == model.semantic_categories
    with torch.no_grad():
        assert torch.equal(again(batch.images, batch.sizes).semantic, model(batch.images, batch.sizes).semantic)


def test_factories_name_the_classes():
    assert semantic_fpn("resnet10", categories=["a", "b"]).semantic_categories.names == ("a", "b")
    head = SemanticHeadConfig(stuff=["sky"], stuff_ids=[119])
    model = panoptic_fpn("resnet10", 3, semantic_head=head)
    assert (model.num_classes, model.semantic_head.num_classes) == (3, 2)
    assert (model.semantic_categories.names, model.semantic_categories.ids) == (("things", "sky"), (0, 119))
    assert panoptic_fpn("resnet10", 3).semantic_categories.names == ("things", "background")


def test_targets_that_do_not_fit_are_rejected(model):
    batch = make_batch()
    with pytest.raises(ValueError, match="needs semantic maps"):
        model.losses(batch._replace(targets=batch.targets._replace(semantic=None)))
    batch.targets.semantic[0, 0, 0] = 3
    with pytest.raises(ValueError, match="semantic label is not in 0 to 2"):
        model.losses(batch)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"cascade": CascadeConfig()}, "without model.cascade"),
        ({"box_head": BoxHeadConfig(hidden=3)}, "without model.box_head"),
        ({"fcos": FCOSConfig()}, "without model.semantic_head"),
        ({"mask_head": MaskHeadConfig(), "cascade": CascadeConfig()}, "does not work with model.cascade"),
    ],
)
def test_heads_that_do_not_go_together_are_rejected(parts, message):
    with pytest.raises(ValueError, match=message):
        build_detector(3, "resnet10", semantic_head=HEAD, **parts)


def test_a_map_holds_at_most_255_classes():
    with pytest.raises(ValueError, match="1 to 255"):
        build_detector(256, "resnet10", semantic_head=HEAD)


@pytest.mark.slow
def test_two_images_are_learned_by_heart():
    torch.manual_seed(0)
    model = semantic_fpn(BackboneConfig("resnet10", norm="group", width=16), 3, FPNConfig(channels=32), HEAD)
    maps = torch.zeros(2, 64, 64, dtype=torch.uint8)
    maps[0, 8:40, 8:40], maps[1, 24:56, 4:60] = 1, 2
    images = torch.stack([40 + 80 * maps] * 3, dim=1)
    batch = make_batch([[], []], canvas=(64, 64))
    batch = batch._replace(images=images, targets=batch.targets._replace(semantic=maps))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(model.losses(batch).values()).backward()
        optimizer.step()
    with torch.no_grad():
        logits = F.interpolate(model.eval()(images, batch.sizes).semantic, scale_factor=4, mode="bilinear")
    assert (logits.argmax(dim=1) == maps).float().mean() > 0.97

"""Every family has the properties of a backbone: channels, strides, stages, and gradients of trainable parameters."""

import pytest
import torch
from torch import nn

from backbones import BackboneConfig, build
from backbones.base import parameters_of
from tests.support.matrix import NAMES

QUICK = ["resnet18", "plain18", "timm/vit_tiny_patch16_224"]


def names():
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]


def make(name, **options):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return build(BackboneConfig(name, **options))


def test_the_matrix_is_large():
    assert len(NAMES) == len(set(NAMES)) >= 60


@pytest.mark.parametrize("name", names())
def test_channels_and_strides_are_as_promised_and_everything_learns(name):
    backbone = make(name)
    images = torch.randn(2, 3, 70, 101)  # no multiple of 32
    features = backbone(images)
    assert backbone.strides == (4, 8, 16, 32)
    assert tuple(x.shape[1] for x in features) == backbone.channels
    for x, stride in zip(features, backbone.strides, strict=True):
        for size, cells in zip(images.shape[2:], x.shape[2:], strict=True):
            assert cells in (size // stride, -(-size // stride)), (stride, x.shape)
    sum(x.square().mean() for x in features).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", names())
def test_stages_and_layers_hold_every_parameter_once(name):
    with torch.device("meta") if not name.startswith("timm/") else torch.device("cpu"):
        backbone = make(name)
    for parts in (backbone.stages(), backbone.layers()):
        listed = [id(p) for part in parts for p in parameters_of(part)]
        pyramid = getattr(backbone, "pyramid", None) or nn.Identity()  # of a plain ViT; not pretrained
        assert sorted(listed + [id(p) for p in pyramid.parameters()]) == sorted(id(p) for p in backbone.parameters())


@pytest.mark.parametrize("name", names())
def test_frozen_stages_keep_parameters_and_buffers_bit_equal(name):
    backbone = make(name, freeze=2).train()
    frozen = {n for n, p in backbone.named_parameters() if not p.requires_grad}
    stages = [p for stage in backbone.stages()[:2] for p in parameters_of(stage)]
    assert len(frozen) == len(stages) > 0
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(x.square().mean() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    owners = {n.rpartition(".")[0] for n in frozen}
    after = backbone.state_dict()
    learning = {n for n, p in backbone.named_parameters() if p.requires_grad}
    same = [k for k in before if k.rpartition(".")[0] in owners and k not in learning]
    assert all(torch.equal(before[k], after[k]) for k in same)
    assert any(not torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize(
    ("name", "published", "classifier"),
    [
        ("resnet18", 11_689_512, 512 * 1000 + 1000),
        ("resnet34", 21_797_672, 512 * 1000 + 1000),
        ("resnet50", 25_557_032, 2048 * 1000 + 1000),
        ("resnet101", 44_549_160, 2048 * 1000 + 1000),
        ("resnet152", 60_192_808, 2048 * 1000 + 1000),
        ("vit_b_16", 86_567_656, 768 * 1000 + 1000),
    ],
)
def test_parameters_are_the_published_ones_less_the_classifier(name, published, classifier):
    with torch.device("meta"):
        backbone = make(name)
    # A ViT has three transposed convolutions and a norm more, and no class token with its position.
    pyramid = 2 * (768 * 384 * 4 + 384) + 384 * 192 * 4 + 192 + 2 * 384 if name == "vit_b_16" else 0
    token = 2 * 768 if name == "vit_b_16" else 0
    assert sum(p.numel() for p in backbone.parameters()) == published - classifier + pyramid - token


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm/beit_base_patch16_224", "accepts images of 224 x 224 only"),
        ("timm/mixer_s32_224", r"features at strides \[32, 32, 32\]"),
        ("timm/convnextv2_atoo", "did you mean convnextv2_atto"),
    ],
)
def test_what_cannot_be_a_backbone_is_rejected_with_the_reason(name, reason):
    with pytest.raises(ValueError, match=reason):
        make(name)


@pytest.mark.slow
def test_position_embeddings_are_their_own_on_the_grid_they_were_made_for():
    from torchvision.models import vit_b_16

    from backbones.simple_pyramid import positions_at

    grid = torch.randn(1, 8, 14, 14)
    assert positions_at(grid, (14, 14)) is grid
    ramp = torch.linspace(0, 1, 14).view(1, 1, 1, 14).expand(1, 1, 14, 14)
    wider = positions_at(ramp, (14, 28))[0, 0, 0]
    assert (wider.diff() > -1e-6).all()
    backbone = make("vit_b_16")
    torch.manual_seed(0)
    whole = vit_b_16()
    assert torch.equal(backbone.positions.flatten(2).transpose(1, 2), whole.encoder.pos_embedding[:, 1:])


@pytest.mark.slow
def test_a_timm_model_keeps_its_own_mean():
    assert make("timm/vit_tiny_patch16_224").mean == (127.5,) * 3
    assert make("timm/resnet26d").mean == pytest.approx((123.675, 116.28, 103.53))


@pytest.mark.slow
def test_norms_of_timm_keep_their_activations():
    images = torch.randn(1, 3, 64, 64)
    batch, frozen = make("timm/efficientnet_b0").eval(), make("timm/efficientnet_b0", norm="frozen")
    torch.testing.assert_close(frozen.train()(images)[0], batch(images)[0], rtol=1e-3, atol=1e-4)  # order of operations
    with pytest.raises(ValueError, match="batch, sync and frozen"):
        make("timm/efficientnet_b0", norm="group")


@pytest.mark.slow
def test_a_file_of_timms_fills_all_of_the_backbone(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    whole = timm.create_model("resnet26d").eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    backbone = make("timm/resnet26d", weights=str(tmp_path / "w.pth")).eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(backbone(images)[-1], whole.forward_features(images))


@pytest.mark.slow
def test_a_file_that_does_not_fit_timms_network_is_rejected(tmp_path):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w.pth lacks conv1.0.weight"):
        make("timm/resnet26d", weights=str(tmp_path / "w.pth"))
    with pytest.raises(ValueError, match="does not exist"):
        make("timm/resnet26d", weights=str(tmp_path / "none.pth"))

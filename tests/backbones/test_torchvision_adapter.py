import pytest
import torch
from torchvision import models

from backbones import BackboneConfig, FrozenBatchNorm2d, build
from backbones.torchvision_adapter import torchvision_names

SMALL = [
    "vgg11",
    "vgg11_bn",
    "densenet121",
    "efficientnet_b0",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "convnext_tiny",
    "swin_t",
]


def check(name):
    torch.manual_seed(0)
    backbone = build(BackboneConfig(name))
    images = torch.randn(2, 3, 70, 101)  # no multiple of 32
    features = backbone(images)
    assert backbone.strides == (4, 8, 16, 32)
    assert tuple(f.shape[1] for f in features) == backbone.channels
    for feature, stride in zip(features, backbone.strides, strict=True):
        for size, cells in zip(images.shape[2:], feature.shape[2:], strict=True):
            assert cells in (size // stride, -(-size // stride)), (stride, feature.shape)
    sum(f.square().mean() for f in features).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * n.startswith(("vgg", "densenet"))) for n in SMALL]
)
def test_stages_are_as_promised_and_every_parameter_learns(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in torchvision_names() if n not in SMALL and "128gf" not in n])
def test_every_other_name_keeps_its_promise(name):
    check(name)


@pytest.mark.parametrize(
    ("name", "published", "classifier"),
    [
        ("vgg16", 138_357_544, (25088 * 4096 + 4096) + (4096 * 4096 + 4096) + (4096 * 1000 + 1000)),
        pytest.param("densenet121", 7_978_856, 1024 * 1000 + 1000, marks=pytest.mark.slow),
        ("efficientnet_b0", 5_288_548, 1280 * 1000 + 1000),
        ("regnet_y_400mf", 4_344_144, 440 * 1000 + 1000),
        pytest.param("maxvit_t", 30_919_624, 2 * 512 + (512 * 512 + 512) + 512 * 1000, marks=pytest.mark.slow),
    ],
)
def test_parameters_are_the_published_ones_less_the_classifier(name, published, classifier):
    with torch.device("meta"):
        backbone = build(BackboneConfig(name))
    assert sum(p.numel() for p in backbone.parameters()) == published - classifier


def test_weights_of_a_file_are_those_of_the_whole_classifier(tmp_path):
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    whole = mobilenet_v3_small().eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    backbone = build(BackboneConfig("mobilenet_v3_small", weights=str(tmp_path / "w.pth"))).eval()
    images = torch.randn(1, 3, 64, 96)
    assert torch.equal(backbone(images)[-1], whole.features(images))


HEADLESS = ("densenet121", "mobilenet_v2", "regnet_y_400mf", "convnext_tiny", "swin_t")
HEADS = ("fc.", "classifier.", "head.", "heads.")


@pytest.mark.slow
@pytest.mark.parametrize("head", ["missing", "of ten classes", "not finite"])
@pytest.mark.parametrize("name", [pytest.param("vgg11", marks=pytest.mark.slow), *HEADLESS])
def test_a_backbone_needs_no_classifier_in_its_file(tmp_path, name, head):
    whole = models.get_model(name, weights=None).state_dict()
    last = {key: value for key, value in whole.items() if key.startswith(HEADS)}
    assert last
    state = {key: value for key, value in whole.items() if key not in last}
    if head == "of ten classes":
        state |= {key: value[:10] if value.shape[0] == 1000 else value for key, value in last.items()}
    if head == "not finite":
        state |= {key: torch.full_like(value, torch.nan) for key, value in last.items()}
    torch.save(state, tmp_path / "w.pth")
    given = [value for key, value in state.items() if key not in last]
    for loaded in build(BackboneConfig(name, str(tmp_path / "w.pth"))).parameters():
        assert any(value.shape == loaded.shape and torch.equal(value, loaded) for value in given)


def test_what_the_backbone_keeps_must_be_in_its_file(tmp_path):
    state = models.get_model("mobilenet_v2", weights=None).state_dict()
    del state["features.18.0.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"lacks features\.18\.0\.weight"):
        build(BackboneConfig("mobilenet_v2", str(tmp_path / "w.pth")))


def test_every_vgg_densenet_and_efficientnet_has_a_name():
    names = set(torchvision_names())
    assert {f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")} <= names
    assert {f"densenet{depth}" for depth in (121, 161, 169, 201)} <= names
    assert {f"efficientnet_b{i}" for i in range(8)} | {f"efficientnet_v2_{size}" for size in "sml"} <= names
    assert {"mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "maxvit_t"} <= names
    assert {f"swin_{size}" for size in "tsb"} | {f"convnext_{size}" for size in ("tiny", "small", "base")} <= names


def test_looking_for_the_stages_draws_no_random_numbers():
    from torchvision.models import regnet_y_400mf

    torch.manual_seed(0)
    build(BackboneConfig("regnet_y_400mf"))
    ours = torch.rand(1)
    torch.manual_seed(0)
    regnet_y_400mf()
    assert torch.equal(ours, torch.rand(1))


@pytest.mark.parametrize("name", ["vgg11", "convnext_tiny", pytest.param("densenet121", marks=pytest.mark.slow)])
def test_images_that_shrink_to_nothing_are_rejected_with_a_size_that_would_do(name):
    with torch.device("meta"):
        backbone = build(BackboneConfig(name))
        with pytest.raises(ValueError, match=r"images of 16 x 40 pixels are too small .*; use at least 32 x 32 pixels"):
            backbone(torch.empty(2, 3, 16, 40))
        assert backbone(torch.empty(2, 3, 32, 40))[-1].shape[2:] == (1, 1)


def test_frozen_norms_give_the_function_of_batch_norms_in_evaluation():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 64, 64)
    torch.manual_seed(1)
    batch = build(BackboneConfig("mobilenet_v3_small")).eval()
    torch.manual_seed(1)
    frozen = build(BackboneConfig("mobilenet_v3_small", norm="frozen"))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in frozen.modules())
    assert any(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules())
    # float32 rounding of (x - m) * s against x * s + b, over some 50 layers
    torch.testing.assert_close(frozen(images)[-1], batch(images)[-1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", pytest.param("swin_t", marks=pytest.mark.slow)])
def test_freezing_by_name_is_bit_equal_and_the_rest_learns(name):
    torch.manual_seed(0)
    backbone = build(BackboneConfig(name, freeze=("stem", "layer1"))).train()
    frozen = {n for n, p in backbone.named_parameters() if not p.requires_grad}
    counted = {n for n, p in build(BackboneConfig(name, freeze=2)).named_parameters() if not p.requires_grad}
    assert frozen == counted
    assert frozen
    parts = {".".join(n.split(".")[:-1]) for n in frozen}
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(f.square().mean() for f in backbone(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    after = backbone.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items() if k.rpartition(".")[0] in parts)
    learning = [(n, p) for n, p in backbone.named_parameters() if p.grad is not None and p.grad.any()]
    assert learning
    assert all(not torch.equal(p, before[n]) for n, p in learning)


def test_a_pattern_freezes_and_an_unknown_name_is_rejected():
    backbone = build(BackboneConfig("resnet18", freeze=("layer3.*",)))
    assert {n.split(".")[0] for n, p in backbone.named_parameters() if not p.requires_grad} == {"layer3"}
    with pytest.raises(ValueError, match="no module matches layer9; the stages are stem, layer1"):
        build(BackboneConfig("resnet18", freeze=("layer9",)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny"])
@pytest.mark.parametrize("channels", [1, 4, 6])
def test_grey_images_give_the_same_response_with_any_number_of_channels(name, channels):
    torch.manual_seed(0)
    rgb = build(BackboneConfig(name)).eval()
    torch.manual_seed(0)
    other = build(BackboneConfig(name, in_channels=channels)).eval()
    assert len(other.mean) == len(other.std) == channels
    grey = torch.randn(1, 1, 64, 64)
    # sums of the same numbers in another order
    torch.testing.assert_close(
        other(grey.expand(-1, channels, -1, -1))[0], rgb(grey.expand(-1, 3, -1, -1))[0], rtol=1e-3, atol=1e-4
    )

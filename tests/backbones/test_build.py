import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from backbones import BackboneConfig, FrozenBatchNorm2d, build
from backbones.pretrained import imagenet_weights
from backbones.resnet import VARIANTS


def test_every_own_name_builds():
    with torch.device("meta"):
        for name in VARIANTS:
            assert build(BackboneConfig(name)).strides == (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet5O", "resnet50"), ("resnet1010", "resnet101"), ("xyz", "use resnet10")]
)
def test_an_unknown_name_gets_the_nearest_ones(name, hint):
    with pytest.raises(ValueError, match=hint):
        build(BackboneConfig(name))


@pytest.mark.parametrize("option", [{"width": 32}, {"checkpoint": True}, {"stride_in_1x1": True}])
@pytest.mark.parametrize("name", ["swin_t", "vit_b_16", "timm/resnet10t"])
def test_an_option_that_a_backbone_would_not_follow_is_rejected(name, option):
    with pytest.raises(ValueError, match=f"backbone.{next(iter(option))}: {name} does not support this option"):
        build(BackboneConfig(name, **option))


def test_an_import_path_names_a_users_own(monkeypatch, tmp_path):
    (tmp_path / "my_lab_nets.py").write_text(
        "from backbones import Backbone\n"
        "class Mine(Backbone):\n    channels, strides = (4, 8), (4, 8)\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert build(BackboneConfig("my_lab_nets.Mine")).channels == (4, 8)
    with pytest.raises(ValueError, match="returned a int; it must return a"):
        build(BackboneConfig("my_lab_nets.number"))
    with pytest.raises(ValueError, match="has no attribute 'Yours'"):
        build(BackboneConfig("my_lab_nets.Yours"))


@pytest.fixture
def own(monkeypatch, tmp_path):
    """The name of a user's own backbone, and weights for it."""
    (tmp_path / "my_lab_body.py").write_text(
        "from torch import nn\n"
        "from backbones import Backbone\n"
        "class Body(Backbone):\n"
        "    channels, strides = (32,), (4,)\n"
        "    def __init__(self, norm=True):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 32, 3, 4, 1)\n"
        "        self.norm = nn.BatchNorm2d(32) if norm else nn.Identity()\n"
        "def plain():\n    return Body(norm=False)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    state = build(BackboneConfig("my_lab_body.Body")).state_dict()
    state["norm.running_mean"] += 3
    torch.save(state, tmp_path / "body.pth")
    return "my_lab_body.Body", str(tmp_path / "body.pth"), state


def test_a_users_own_follows_weights_and_norm(own):
    name, weights, state = own
    for norm, kind in (("frozen", FrozenBatchNorm2d), ("batch", nn.BatchNorm2d), ("group", nn.GroupNorm)):
        built = build(BackboneConfig(name, weights=weights, norm=norm))
        assert type(built.norm) is kind
        assert torch.equal(built.conv.weight, state["conv.weight"])
    assert torch.equal(build(BackboneConfig(name, weights, "frozen")).norm.running_mean, state["norm.running_mean"])
    with pytest.raises(ValueError, match=r"/no/such\.pth does not exist"):
        build(BackboneConfig(name, weights="/no/such.pth"))
    with pytest.raises(ValueError, match=rf"no ImageNet weights for {name}"):
        build(BackboneConfig(name, weights="imagenet"))
    torch.save({}, weights)
    with pytest.raises(ValueError, match=r"lacks conv\.weight"):
        build(BackboneConfig(name, weights=weights))


@pytest.mark.parametrize("name", ["my_lab_body.plain", "vit_b_16", "swin_t"])
@pytest.mark.usefixtures("own")
def test_group_norms_in_place_of_none_are_rejected(name):
    with pytest.raises(ValueError, match=f"backbone.norm: {name} has no batch norms"), torch.device("meta"):
        build(BackboneConfig(name, norm="group"))


@pytest.mark.parametrize("freeze", [1, 2, 5])
def test_frozen_stages_stay_bit_equal_through_training(freeze):
    torch.manual_seed(0)
    backbone = build(BackboneConfig("resnet18", freeze=freeze))
    before = copy.deepcopy(backbone.state_dict())
    backbone.train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        stages = backbone(torch.randn(2, 3, 64, 64))
        loss = sum(stage.square().mean() for stage in stages)
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
    parts = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"][: freeze + 1]
    for key, value in backbone.state_dict().items():
        frozen = key.split(".")[0] in parts
        assert torch.equal(value, before[key]) == frozen, key


def test_too_many_frozen_stages_are_rejected():
    with pytest.raises(ValueError, match="use 0 to 5, the number of stages including the stem"):
        build(BackboneConfig("resnet18", freeze=6))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_a_file_by_name(tmp_path, suffix):
    torch.manual_seed(0)
    state = build(BackboneConfig("resnet18")).state_dict() | {"fc.weight": torch.zeros(10, 512)}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    loaded = build(BackboneConfig("resnet18", weights=str(path), norm="frozen")).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "layer1.0.conv1.weight"}, r"lacks layer1\.0\.conv1\.weight"),
        (lambda s: s | {"layer9.weight": torch.zeros(1)}, r"has unknown layer9\.weight"),
        (lambda s: s | {"conv1.weight": torch.zeros(64, 4, 7, 7)}, r"\(64, 4, 7, 7\) instead of \(64, 3, 7, 7\)"),
        (lambda s: s | {"bn1.weight": torch.full((64,), torch.nan)}, r"NaN or Inf in bn1\.weight"),
        (lambda s: {"epoch": 3}, "holds no state dict"),
        (lambda s: {"f": print}, "cannot be read as a file of tensors"),
    ],
)
def test_weights_that_do_not_fit_are_rejected(tmp_path, spoil, message):
    path = tmp_path / "weights.pth"
    torch.save(spoil(build(BackboneConfig("resnet18")).state_dict()), path)
    with pytest.raises(ValueError, match=message):
        build(BackboneConfig("resnet18", weights=str(path)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/efficientnet_lite0", "timm/convnext_atto"])
@pytest.mark.parametrize("head", ["missing", "of ten classes"])
def test_a_timm_backbone_needs_no_classifier_in_its_file(tmp_path, name, head):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    whole = timm.create_model(name.removeprefix("timm/"), num_classes=10).state_dict()
    unused = ("conv_head.", "bn2.", "classifier.", "fc.", "head.", "norm.")
    state = whole if head == "of ten classes" else {k: v for k, v in whole.items() if not k.startswith(unused)}
    torch.save(state, tmp_path / "w.pth")
    stem = next(iter(state))
    assert torch.equal(next(build(BackboneConfig(name, weights=str(tmp_path / "w.pth"))).parameters()), state[stem])
    torch.save({key: value for key, value in state.items() if key != stem}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=f"lacks {stem}"):
        build(BackboneConfig(name, weights=str(tmp_path / "w.pth")))


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"nowhere\.pth does not exist"):
        build(BackboneConfig("resnet18", weights="nowhere.pth"))


def test_without_a_network_one_line_says_what_to_fetch(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refuse(*_arguments, **_options):
        raise OSError("no route\nand more")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    wanted = r"download of .*resnet18-.*\.pth failed \(no route\).* put it at .*checkpoints.* weights to None"
    with pytest.raises(ValueError, match=wanted) as error:
        imagenet_weights("resnet18")
    assert error.value.__suppress_context__  # no traceback of what failed within


def test_without_a_network_timm_says_so_in_a_line_too(monkeypatch):
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def refuse(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route\nand more")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", refuse)
    wanted = r"could not load imagenet for timm/resnet10t \(no route\); give a file, or copy .*Hugging Face Hub$"
    with pytest.raises(ValueError, match=wanted):
        build(BackboneConfig("timm/resnet10t", weights="imagenet"))


def test_no_imagenet_weights_for_plain_networks():
    with pytest.raises(ValueError, match="no ImageNet weights for plain18"):
        build(BackboneConfig("plain18", weights="imagenet"))


def test_timm_models_come_by_name():
    pytest.importorskip("timm")
    backbone = build(BackboneConfig("timm/resnet10t"))
    stages = backbone(torch.randn(1, 3, 64, 64))
    assert tuple(stage.shape[1] for stage in stages) == backbone.channels
    assert tuple(64 // stage.shape[-1] for stage in stages) == backbone.strides == (4, 8, 16, 32)
    with pytest.raises(ValueError, match=r"did you mean .*resnet50"):
        build(BackboneConfig("timm/resnet5O"))

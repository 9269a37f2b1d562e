import re

import pytest
import torch
import torchvision
from torch import nn

from backbones import BackboneConfig, build, fast
from backbones.resnet import VARIANTS, ResNet

PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    with torch.device("meta"):
        network = ResNet(VARIANTS[name], num_classes=1000)
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[name]


def randomised(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1)
    return model


def their_stages(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    stages = []
    for i in range(1, 5):
        x = getattr(model, f"layer{i}")(x)
        stages.append(x)
    return stages


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED if re.search("101|152|wide", name)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", *SLOW])
def test_torchvisions_weights_give_torchvisions_features(name):
    theirs = randomised(name).double()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = [*their_stages(theirs, x.double()), theirs(x.double())]
    for norm in ("batch", "frozen"):
        ours = ResNet(VARIANTS[name], norm=norm, num_classes=1000).eval()
        ours.load_state_dict(theirs.state_dict())
        for form in (fast.revert, fast.convert):
            form(ours)
            with torch.no_grad():
                found = [*ours(x), ours.classify(x)]
            for mine, exact in zip(found, expected, strict=True):
                # Of float32, whose own rounding makes up to 1e-6 of torchvision's.
                error = (mine - exact).square().mean().sqrt()
                assert error < 3e-6 * exact.std()


def test_training_mode_agrees_too_and_counts_the_same_statistics():
    theirs = randomised("resnet18").train()
    ours = ResNet(VARIANTS["resnet18"], num_classes=1000)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x)[-1], their_stages(theirs, x)[-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.layer4[1].bn2.running_mean, theirs.layer4[1].bn2.running_mean)


@pytest.mark.parametrize("name", ["resnet10", "resnet18", "resnet50", "plain18", "plain50"])
def test_stages_have_the_promised_channels_and_strides(name):
    network = ResNet(VARIANTS[name], width=16)
    stages = network(torch.randn(1, 3, 64, 96))
    assert tuple(stage.shape[1] for stage in stages) == network.channels
    assert tuple(96 // stage.shape[-1] for stage in stages) == network.strides == (4, 8, 16, 32)


@pytest.mark.parametrize(("name", "width"), [("resnet10", 1), ("resnet50", 16), ("resnext50_32x4d", 16)])
def test_a_narrow_network_comes_from_a_config(name, width):
    backbone = build(BackboneConfig(name, width=width))
    block = 4 if VARIANTS[name].bottleneck else 1
    assert backbone.channels == tuple(width * block * 2**i for i in range(4))
    assert backbone.conv1.weight.shape == (width, 3, 7, 7)
    assert [x.shape[1] for x in backbone(torch.randn(1, 3, 64, 64))] == list(backbone.channels)


def test_a_group_without_channels_is_rejected():
    with pytest.raises(ValueError, match="width is 8; this network needs at least 16"):
        build(BackboneConfig("resnext50_32x4d", width=8))


def test_one_value_per_channel_is_rejected_with_what_would_do():
    image = torch.randn(1, 3, 32, 20)
    backbone = build(BackboneConfig("resnet10", width=8)).train()
    with pytest.raises(
        ValueError, match=r"one image of 32 x 20 .* use a side over 32 pixels, a batch of two, or norm group"
    ):
        backbone(image)
    assert backbone(torch.randn(1, 3, 32, 33))[-1].shape == (1, 64, 1, 2)
    assert backbone(image.repeat(2, 1, 1, 1))[-1].shape == (2, 64, 1, 1)
    assert backbone.eval()(image)[-1].shape == (1, 64, 1, 1)
    for options in ({"norm": "group"}, {"norm": "frozen"}, {"freeze": ("layer4",)}):
        build(BackboneConfig("resnet10", width=8, **options)).train()(image)


def plainly(block, x):
    """A bottleneck as the paper draws it, every result in a tensor of its own."""
    y = block.bn1(block.conv1(x)).relu()
    y = block.bn2(block.conv2(y)).relu()
    y = block.bn3(block.conv3(y))
    return (y + (x if block.downsample is None else block.downsample(x))).relu()


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_working_in_place_changes_no_bit(norm):
    torch.manual_seed(0)
    for block in fast.convert(ResNet(VARIANTS["resnet50"], norm=norm, width=16)).train().layer1:
        x = torch.randn(2, block.conv1.in_channels, 12, 12, requires_grad=True)
        results = [forward(x) for forward in (block, lambda x, block=block: plainly(block, x))]
        assert torch.equal(*results)
        leaves = [x, *block.parameters()]
        for ours, theirs in zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in results), strict=True):
            assert torch.equal(ours, theirs)


def test_a_dilated_last_stage_agrees_with_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]).eval()
    ours = ResNet(VARIANTS["resnet50"], dilate_last_stage=True, num_classes=1000).eval()
    ours.load_state_dict(theirs.state_dict())
    assert ours.strides == (4, 8, 16, 16)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[-1], their_stages(theirs, x)[-1], atol=1e-3, rtol=1e-4)


def test_zero_initialised_last_norms_make_blocks_the_identity():
    block = ResNet(VARIANTS["resnet18"], zero_init_last_norm=True).eval().layer1[1]
    x = torch.rand(1, 64, 8, 8)
    assert torch.equal(block(x), x)


def test_checkpointing_changes_memory_not_gradients():
    gradients = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        network = ResNet(VARIANTS["resnet18"], norm="group", width=16, checkpoint=checkpoint).train()
        network(torch.randn(1, 3, 64, 64))[-1].sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for once, again in zip(*gradients, strict=True):
        torch.testing.assert_close(once, again)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("norm", ["batch", "sync"])
def test_checkpointing_counts_each_batch_once(norm, momentum):
    once, again = (ResNet(VARIANTS["resnet18"], norm=norm, width=16, checkpoint=c).train() for c in (False, True))
    again.load_state_dict(once.state_dict())
    for network in (once, again):
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = momentum
        buffers = list(network.buffers())
        for seed in range(2):
            loss = network(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)))[-1].sum()
            loss.backward(retain_graph=True)
            loss.backward()
        assert all(one is other for one, other in zip(network.buffers(), buffers, strict=True))
    assert again.layer1[0].bn1.num_batches_tracked == 2
    for name, value in again.state_dict().items():
        assert torch.equal(value, once.state_dict()[name]), name
    for one, other in zip(once.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_plain_network_differs_by_its_shortcuts_alone():
    plain, residual = ResNet(VARIANTS["plain18"]), ResNet(VARIANTS["resnet18"])
    missing = set(residual.state_dict()) - set(plain.state_dict())
    assert missing
    assert all("downsample" in key for key in missing)

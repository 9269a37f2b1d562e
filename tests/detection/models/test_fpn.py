from collections import OrderedDict

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from detection import fast
from detection.models.fpn import FPN, FPNConfig


def stages(sizes=((16, 20), (8, 10), (4, 5), (2, 3))):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 8 * 2**i, *size, generator=generator) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("form", [fast.revert, fast.convert])
def test_torchvisions_pyramid_agrees(form):
    theirs = FeaturePyramidNetwork([8, 16, 32, 64], 12, LastLevelMaxPool())
    ours = form(FPN((8, 16, 32, 64), (4, 8, 16, 32), FPNConfig(channels=12)))
    renamed = {
        key.replace("inner_blocks", "lateral").replace("layer_blocks", "output"): value
        for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(renamed)
    features, others = ([x.requires_grad_() for x in stages()] for _ in range(2))
    found, expected = ours(features), [*theirs(OrderedDict(enumerate(others))).values()]
    for level, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(level, reference)
    for levels in (found, expected):
        torch.stack([level.square().sum() for level in levels]).sum().backward()
    for one, other in zip(features, others, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    gradients = {renamed_key: parameter.grad for renamed_key, parameter in ours.named_parameters()}
    for key, parameter in theirs.named_parameters():
        mine = gradients[key.replace("inner_blocks", "lateral").replace("layer_blocks", "output")]
        torch.testing.assert_close(mine, parameter.grad)


@pytest.mark.parametrize("form", [fast.revert, fast.convert])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_norms_see_every_batch_once(norm, form):
    fpn = form(FPN((8, 16, 32, 64), (4, 8, 16, 32), FPNConfig(channels=32, norm=norm)))
    torch.stack([level.sum() for level in fpn([x.requires_grad_() for x in stages()])]).sum().backward()
    assert all(int(value) == 1 for name, value in fpn.named_buffers() if name.endswith("num_batches_tracked"))


@pytest.mark.parametrize(("extra", "strides"), [("pool", (4, 8, 16, 32, 64)), ("conv", (4, 8, 16, 32, 64, 128))])
def test_levels_have_the_promised_strides(extra, strides):
    fpn = FPN((8, 16, 32, 64), (4, 8, 16, 32), FPNConfig(channels=12, extra=extra))
    assert fpn.strides == strides
    levels = fpn(stages(((32, 32), (16, 16), (8, 8), (4, 4))))
    assert [128 // level.shape[-1] for level in levels] == list(strides)
    assert all(level.shape[1] == 12 for level in levels)


def test_norms_follow_every_convolution():
    fpn = FPN((8, 16), (4, 8), FPNConfig(channels=32, norm="group"))
    assert sum(isinstance(m, torch.nn.GroupNorm) for m in fpn.modules()) == 4
    assert not any("0.bias" in name for name, _ in fpn.lateral.named_parameters())

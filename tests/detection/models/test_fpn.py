from collections import OrderedDict

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from detection.models.fpn import FPN


def stages(sizes=((16, 20), (8, 10), (4, 5), (2, 3))):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 8 * 2**i, *size, generator=generator) for i, size in enumerate(sizes)]


def test_torchvisions_pyramid_agrees():
    theirs = FeaturePyramidNetwork([8, 16, 32, 64], 12, LastLevelMaxPool())
    ours = FPN((8, 16, 32, 64), (4, 8, 16, 32), 12)
    renamed = {
        key.replace("inner_blocks", "lateral").replace("layer_blocks", "output"): value
        for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(renamed)
    features = stages()
    expected = theirs(OrderedDict(enumerate(features)))
    for level, reference in zip(ours(features), expected.values(), strict=True):
        torch.testing.assert_close(level, reference)


@pytest.mark.parametrize(("extra", "strides"), [("pool", (4, 8, 16, 32, 64)), ("conv", (4, 8, 16, 32, 64, 128))])
def test_levels_have_the_promised_strides(extra, strides):
    fpn = FPN((8, 16, 32, 64), (4, 8, 16, 32), 12, extra=extra)
    assert fpn.strides == strides
    levels = fpn(stages(((32, 32), (16, 16), (8, 8), (4, 4))))
    assert [128 // level.shape[-1] for level in levels] == list(strides)
    assert all(level.shape[1] == 12 for level in levels)


def test_norms_follow_every_convolution():
    fpn = FPN((8, 16), (4, 8), 32, norm="group")
    assert sum(isinstance(m, torch.nn.GroupNorm) for m in fpn.modules()) == 4
    assert not any("0.bias" in name for name, _ in fpn.lateral.named_parameters())

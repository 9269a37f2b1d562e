import pytest
import torch
import torch.nn.functional as F

from backbones.norms import make_norm
from detection.models.fpn import FPN, FPNConfig
from detection.models.necks import PAFPN, build_neck


def stages(sizes=((16, 20), (8, 10), (4, 5), (2, 3))):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 8 * 2**i, *size, generator=generator) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("kind", ["fpn", "pafpn", "bifpn", "simple"])
@pytest.mark.parametrize("norm", [None, "batch", "group", "layer"])
@pytest.mark.parametrize("extra", ["pool", "conv"])
def test_levels_keep_their_grids_and_every_parameter_learns(kind, norm, extra):
    torch.manual_seed(0)
    neck = build_neck((8, 16, 32, 64), (4, 8, 16, 32), FPNConfig(kind, 16, norm, extra))
    levels = neck(stages())
    assert len(levels) == len(neck.strides)
    assert [tuple(level.shape) for level in levels[:4]] == [(2, 16, *s.shape[-2:]) for s in stages()]
    sum(level.square().sum() for level in levels).backward()
    assert [n for n, p in neck.named_parameters() if p.grad is None] == []
    assert (norm is None) != any(isinstance(m, type(make_norm(norm or "batch", 16))) for m in neck.modules())


@pytest.mark.parametrize("kind", ["pafpn", "bifpn"])
def test_the_finest_stage_reaches_the_coarsest_level(kind):
    torch.manual_seed(0)
    neck = build_neck((8, 16, 32, 64), (4, 8, 16, 32), FPNConfig(kind, 16))
    inputs = [stage.requires_grad_() for stage in stages()]
    neck(inputs)[3].sum().backward()
    assert inputs[0].grad.any()


def test_without_its_way_up_pafpn_is_fpn():
    torch.manual_seed(0)
    fpn, pafpn = FPN((8, 16), (4, 8), FPNConfig(channels=12)), PAFPN((8, 16), (4, 8), FPNConfig(channels=12))
    pafpn.load_state_dict(fpn.state_dict(), strict=False)
    torch.nn.init.zeros_(pafpn.down[0][0].weight)
    torch.nn.init.dirac_(pafpn.fuse[0][0].weight)
    with torch.no_grad():
        for ours, theirs in zip(pafpn(stages()[:2]), fpn(stages()[:2]), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_level_of_the_simple_pyramid_is_its_stage_after_two_convolutions():
    torch.manual_seed(0)
    neck = build_neck((8, 16, 32, 64), (4, 8, 16, 32), FPNConfig("simple", 16))
    levels = neck(stages())
    for stage, lateral, output, level in zip(stages(), neck.lateral, neck.output, levels[:4], strict=True):
        one = F.conv2d(stage, lateral[0].weight, lateral[0].bias)
        torch.testing.assert_close(level, F.conv2d(one, output[0].weight, output[0].bias, padding=1))
    assert torch.equal(levels[4], levels[3][..., ::2, ::2])


@pytest.mark.parametrize(("key", "known"), [("kind", "fpn, pafpn, bifpn, simple"), ("extra", "pool, conv")])
def test_what_there_is_none_of_is_rejected(key, known):
    with pytest.raises(ValueError, match=f"fpn.{key} is 'other'; use one of {known}"):
        build_neck((8, 16), (4, 8), FPNConfig(**{key: "other"}))

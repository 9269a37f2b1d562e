"""A bias, a sum and a ReLU in one pass against one after the other; interpreted where there is no GPU."""

import itertools

import pytest
import torch

from tests.support.kernels import DEVICE, kernels

epilogue = kernels("backbones.fast.kernels.epilogue")


def maps(*shape, dtype=torch.float32, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.to(DEVICE, dtype, memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (1, 130, 2, 2), (3, 64, 1, 1), (1, 1, 5, 9)])
@pytest.mark.parametrize(("biased", "summed", "relu"), itertools.product([True, False], repeat=3))
def test_a_pass_is_the_steps_one_after_the_other(shape, biased, summed, relu):
    y, bias, residual = maps(*shape), torch.randn(shape[1], device=DEVICE), maps(*shape, seed=1)
    expected = y + (bias[:, None, None] if biased else 0)
    expected = expected + (residual if summed else 0)
    expected = expected.relu() if relu else expected
    found = epilogue.finish(y, bias if biased else None, residual if summed else None, relu)
    assert found is y
    assert torch.equal(found, expected)


def test_a_sum_in_bfloat16_is_rounded_once_and_a_nan_stays():
    y, bias, residual = (
        maps(2, 16, 3, 3, dtype=torch.bfloat16),
        torch.randn(16, device=DEVICE),
        maps(2, 16, 3, 3, seed=1),
    )
    y[0, 3, 1, 1] = torch.nan
    residual = residual.bfloat16()
    expected = (y.float() + bias[:, None, None] + residual.float()).relu().bfloat16()
    found = epilogue.finish(y, bias, residual, relu=True)
    cut_off = 0 if DEVICE == "cuda" else 2**-7  # as the interpreter makes a bfloat16
    torch.testing.assert_close(found, expected, rtol=cut_off, atol=0, equal_nan=True)
    assert found[0, 3, 1, 1].isnan()


def test_nothing_and_maps_that_lie_otherwise():
    assert epilogue.finish(maps(0, 4, 2, 2), None, None, True).shape == (0, 4, 2, 2)
    flat = torch.randn(2, 4, 3, 3)
    assert epilogue.fits(maps(2, 4, 3, 3), maps(2, 4, 3, 3, seed=1))
    assert not epilogue.fits(flat)
    assert not epilogue.fits(maps(2, 4, 3, 3), flat)

"""RoIAlign by the GPU kernel compared with the sparse product; interpreted on machines without a GPU."""

import pytest
import torch

from detection.fast import roi_align as module
from detection.fast.levels import levels_from_maps
from tests.support.kernels import DEVICE, kernels

kernel = kernels("detection.fast.kernels.roi_align")


def boxes():
    """Two images of 5 RoIs: inside, over the rim, tiny, without area, not finite."""
    found = torch.tensor([[2.5, 3, 20, 30], [30, 20, 47.9, 32], [5, 5, 5.5, 5.2], [9, 9, 9, 9], [0, 0, 48, 32.0]])
    broken = found.clone()
    broken[0, 0], broken[1] = torch.nan, torch.inf
    return torch.stack([found, broken])


@pytest.mark.parametrize(
    ("channels", "bins", "samples"),
    [*(pytest.param(*n, marks=pytest.mark.slow) for n in ((8, 3, 2), (5, 2, 2))), (3, 2, 1)],
)
@pytest.mark.parametrize("aligned", [True, False])
def test_values_and_gradients_are_those_of_the_sparse_product(monkeypatch, channels, bins, samples, aligned):
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, channels, *side, generator=generator) for side in ((8, 12), (4, 6))]
    levels = levels_from_maps([x.to(DEVICE, memory_format=torch.channels_last) for x in features])
    found = []
    for used in (False, True):
        monkeypatch.setattr(module, "samples_in_place", lambda rows, used=used: used)
        rows = levels.vectors.clone().requires_grad_()
        pooled = module.roi_align(levels._replace(vectors=rows), (4, 8), boxes().to(DEVICE), bins, samples, aligned)
        slope = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
        found.append((pooled, *torch.autograd.grad(pooled, rows, slope)))
    (expected, to_rows), (pooled, gradient) = found
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, to_rows, atol=1e-5, rtol=1e-5)
    assert pooled.abs().sum() > 0


@pytest.mark.slow
def test_gradients_of_bfloat16_are_added_in_float32():
    rois = torch.tensor([[0.0, 0, 4, 4]], device=DEVICE).repeat(20, 1)
    places = torch.tensor([[4, 4, 0]], device=DEVICE).repeat(20, 1)
    total = torch.full((16, 4), 256.0, device=DEVICE)  # to which bfloat16 could not add a part of 1
    slope = torch.ones(20 * 4, 4, device=DEVICE, dtype=torch.bfloat16)
    kernel.add_gradient(total, slope, rois, places, 2, 2)
    torch.testing.assert_close(total.sum(), torch.tensor(256.0 * 64 + 20 * 4 * 4, device=DEVICE))
    assert kernel.pool(slope, rois[:0], places[:0], 2, 2).shape == (0, 4)

"""Samples of maps beside PyTorch's grid_sample, and uncertain points beside a loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from detection.ops.points import cell_centres, on_canvas, sample_maps, uncertain_points


def problem(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three maps of 5 x 7 cells, and points of six regions, some of them beyond the border."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(3, 4, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    points = torch.rand(6, 40, 2, generator=generator, dtype=torch.float64) * torch.tensor([10.0, 8.0]) - 1.5
    points[0, 0], points[0, 1], points[0, 2] = torch.tensor([[0.0, 0.0], [7.0, 5.0], [0.5, 4.5]])
    return maps, points, torch.randint(0, 3, (6,), generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_samples_and_their_gradients_are_those_of_grid_sample(seed):
    maps, points, owner = problem(seed)
    found = sample_maps(maps, points, owner)
    grid = 2 * points / torch.tensor([7.0, 5.0]) - 1
    expected = F.grid_sample(maps[owner], grid[:, :, None], align_corners=False).squeeze(3).transpose(1, 2)
    assert found.shape == (6, 40, 4)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((x * weight).sum(), maps)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_a_centre_has_the_value_of_its_cell_and_half_of_it_remains_on_the_border():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
    points = torch.tensor([[[0.5, 0.5], [1.5, 1.5], [1.0, 1.0], [0.0, 0.5], [-0.5, 0.5], [9.0, 9.0]]])
    found = sample_maps(maps, points, torch.tensor([0])).flatten()
    assert found.tolist() == [1, 5, 2.75, 0.5, 0, 0]


def test_points_that_are_not_finite_give_zero():
    points = torch.tensor([[[math.nan, 0.5], [math.inf, 0.5], [-math.inf, 0.5]]])
    assert sample_maps(torch.ones(1, 2, 3, 3), points, torch.tensor([0])).abs().sum() == 0


def test_the_dtype_of_maps_stays_and_points_keep_their_precision():
    maps = torch.arange(512.0).view(1, 1, 1, 512).bfloat16()
    points = torch.tensor([[[300.5, 0.5], [301.5, 0.5]]])
    found = sample_maps(maps, points, torch.tensor([0]))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.flatten(), maps[0, 0, 0, 300:302])


def test_no_regions_have_no_samples():
    maps = torch.ones(1, 2, 3, 3, requires_grad=True)
    found = sample_maps(maps, torch.zeros(0, 5, 2), torch.zeros(0, dtype=torch.long))
    assert found.shape == (0, 5, 2)
    found.sum().backward()
    assert maps.grad.abs().sum() == 0


def test_centres_go_row_by_row_and_boxes_place_them():
    assert cell_centres(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    boxes = torch.tensor([[10.0, 20, 50, 40], [0, 0, 4, 8]])
    points = on_canvas(cell_centres(2).expand(2, 4, 2), boxes)
    assert points[0].tolist() == [[20, 25], [40, 25], [20, 35], [40, 35]]
    assert points[1, 3].tolist() == [3, 6]


@pytest.mark.parametrize("number", [0, 1, 7, 20])
def test_the_uncertain_points_are_those_of_a_loop(number):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, generator=generator)
    drawn = torch.rand(3, 20, 2, generator=generator)
    found = uncertain_points(logits, drawn, number)
    assert found.shape == (3, number, 2)
    for mask, points, chosen in zip(logits, drawn, found, strict=True):
        sure = []
        for point in points:
            value = F.grid_sample(mask[None, None], (2 * point - 1)[None, None, None], align_corners=False)
            sure.append((abs(value.item()), point.tolist()))
        assert chosen.tolist() == [point for _, point in sorted(sure)[:number]]

"""Windows compared with slices of the padded map."""

import pytest
import torch

from detection.fast.levels import levels_from_maps
from detection.fast.patches import patches


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_windows_are_cut_from_the_padded_map(radius):
    features = torch.randn(2, 3, 4, 5)
    levels = levels_from_maps([torch.randn(2, 3, 8, 10), features, torch.randn(2, 3, 2, 2)])
    places = torch.cartesian_prod(torch.tensor([1]), torch.arange(2), torch.arange(4), torch.arange(5))
    found, inside = patches(levels, *places.unbind(1), radius)
    padded = torch.nn.functional.pad(features, [radius] * 4)
    for (_, image, row, column), window in zip(places.tolist(), found, strict=True):
        expected = padded[image, :, row : row + 2 * radius + 1, column : column + 2 * radius + 1]
        assert torch.equal(window, expected)
    assert inside.sum() == (torch.nn.functional.pad(torch.ones(4, 5), [radius] * 4).unfold(0, 2 * radius + 1, 1).unfold(
        1, 2 * radius + 1, 1
    )).sum() * 2  # fmt: skip

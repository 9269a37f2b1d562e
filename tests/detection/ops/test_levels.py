"""The table of a pyramid and the maps it came from."""

import torch

from detection.ops.levels import as_levels, pick


def test_the_maps_come_back_as_views():
    features = [torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2, 3), torch.randn(2, 3, 1, 2)]
    levels = as_levels(features)
    for one, other in zip(levels.maps, features, strict=True):
        assert torch.equal(one, other)
        assert one.is_contiguous(memory_format=torch.channels_last)
        assert one.untyped_storage().data_ptr() == levels.vectors.untyped_storage().data_ptr()
    assert levels.starts == [0, 2 * 20, 2 * 20 + 2 * 6]
    assert torch.equal(levels.vectors[levels.starts[1] + 6 + 4], features[1][1, :, 1, 1])  # image 1, row 1, column 1


def test_pick_is_an_index_without_a_tensor():
    level = torch.tensor([[2, 0], [1, 2]])
    assert torch.equal(pick([7, 8, 9], level), torch.tensor([[9, 7], [8, 9]]))
    assert torch.equal(pick([0.5, 0.25, 0.125], level), torch.tensor([[0.125, 0.5], [0.25, 0.125]]))

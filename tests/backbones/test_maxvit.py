import pytest
import torch
from torchvision.models import maxvit_t
from torchvision.models.maxvit import MaxVit

from backbones import BackboneConfig, build
from backbones.maxvit import take_any_size


def small() -> MaxVit:
    torch.manual_seed(0)
    sizes = {"input_size": (64, 64), "stem_channels": 8, "partition_size": 2, "head_dim": 4}
    return MaxVit(**sizes, block_channels=[8, 8, 8, 8], block_layers=[1, 1, 1, 1], stochastic_depth_prob=0).eval()


@torch.no_grad()
def test_any_size_is_torchvisions_at_the_size_it_was_made_for():
    theirs, ours = small(), small()
    blocks = [take_any_size(block) for block in ours.blocks]
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = y = theirs.stem(torch.randn(2, 3, 64, 64))
    for block, reference in zip(blocks, theirs.blocks, strict=True):
        x, y = block(x), reference(y)
        assert torch.equal(x, y)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["window_attention", "grid_attention"])
def test_cells_attend_within_their_window_or_grid(kind):
    layer = take_any_size(small().blocks[0]).layers[0].layers.get_submodule(kind)
    x = torch.randn(1, 8, 4, 6)
    changed = x.clone()
    changed[0, :, 1, 2] = torch.randn(8)
    rows, columns = (layer(changed) - layer(x)).abs().amax(dim=1)[0].gt(0).nonzero().unbind(1)
    # Windows of 2 x 2 neighbours: rows 0 and 1, columns 2 and 3. Grids of 2 x 2 cells, 2 rows and 3 columns apart: rows
    # 1 and 3, columns 2 and 5.
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == (
        {(0, 2), (0, 3), (1, 2), (1, 3)} if kind == "window_attention" else {(1, 2), (1, 5), (3, 2), (3, 5)}
    )


@pytest.mark.slow
@torch.no_grad()
def test_torchvisions_weights_give_torchvisions_features_and_other_sizes_are_padded(tmp_path):
    torch.manual_seed(0)
    theirs = maxvit_t().eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = build(BackboneConfig("maxvit_t", weights=str(tmp_path / "w.pth"))).eval()
    images = torch.randn(1, 3, 224, 224)
    features, x = ours(images), theirs.stem(images)
    for feature, block in zip(features, theirs.blocks, strict=True):
        x = block(x)
        assert torch.equal(feature, x)
    padded = torch.zeros(1, 3, 224, 448)
    padded[..., :200, :230] = images[..., :200, :1].expand(-1, -1, -1, 230)
    for cut, whole in zip(ours(padded[..., :200, :230]), ours(padded), strict=True):
        assert torch.equal(cut, whole[..., : cut.shape[2], : cut.shape[3]])

"""The windowed ViT: what a block sees, weights of a plain ViT, and sizes."""

import pytest
import torch

from backbones import BackboneConfig, build
from backbones.vitdet import VITDETS, Size, ViTDet, vit_weights

timm = pytest.importorskip("timm")

TINY = Size(48, 8, 3, "")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ViTDet(TINY).eval()


def plain_vit(class_token=False):
    torch.manual_seed(1)
    vit = timm.models.vision_transformer.VisionTransformer
    pool = "token" if class_token else "avg"
    return vit(224, 16, embed_dim=48, depth=8, num_heads=3, class_token=class_token, global_pool=pool).eval()


@torch.no_grad()
def test_a_block_sees_its_window_and_the_last_of_each_quarter_the_whole_image(network):
    x = torch.randn(1, 28, 42, 48)
    moved = x.clone()
    moved[0, 3, 20] = 10 * torch.randn(48)  # in the second of the three windows of the first row
    for i, block in enumerate(network.blocks):
        changed = (block(x) != block(moved)).any(dim=3)[0]
        if i % 2:
            assert changed.all()
        else:
            assert changed[:14, 14:28].all()
            assert int(changed.sum()) == 14 * 14
    assert [block.window_size for block in network.blocks] == [14, 0] * 4


@pytest.mark.parametrize(("name", "seeing"), [("vitdet_b", [2, 5, 8, 11]), ("vitdet_l", [5, 11, 17, 23])])
def test_the_blocks_that_see_everything_are_those_of_the_paper(name, seeing):
    with torch.device("meta"):
        blocks = build(BackboneConfig(name)).blocks
    assert [i for i, block in enumerate(blocks) if block.window_size == 0] == seeing


@torch.no_grad()
def test_an_image_of_one_window_gives_the_features_of_a_plain_vit(tmp_path):
    vit, images = plain_vit(), torch.randn(2, 3, 224, 224)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    network = ViTDet(TINY, str(tmp_path / "vit.pth")).eval()
    expected = vit.forward_intermediates(images, indices=[7], norm=False, intermediates_only=True)[0]
    torch.testing.assert_close(network(images)[2], expected, rtol=1e-4, atol=1e-5)


def test_the_weights_of_mae_lose_their_class_token(tmp_path):
    state = plain_vit(class_token=True).state_dict()
    assert state["pos_embed"].shape == (1, 197, 48)
    found = vit_weights(state)
    assert torch.equal(found["positions"][0, :, 2, 5], state["pos_embed"][0, 1 + 2 * 14 + 5])
    torch.save({"model": state}, tmp_path / "mae.pth")  # as MAE's authors publish theirs
    ViTDet(TINY, str(tmp_path / "mae.pth"))


def test_weights_that_lack_a_block_are_rejected(tmp_path):
    state = plain_vit().state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("blocks.7.")}, tmp_path / "vit.pth")
    with pytest.raises(ValueError, match=r"vit.pth lacks blocks\.7\.norm1"):
        ViTDet(TINY, str(tmp_path / "vit.pth"))


def test_its_own_weights_load_with_the_relative_positions(network, tmp_path):
    torch.nn.init.normal_(network.blocks[0].attn.rel_pos_h)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    again = ViTDet(TINY, str(tmp_path / "own.pth"))
    for name, value in again.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (224, 160), (32, 32)])
def test_an_image_of_any_size_is_that_of_a_square(network, size):
    images = torch.randn(1, 3, *size)
    square = torch.zeros(1, 3, max(size), max(size))
    square[..., : size[0], : size[1]] = images
    for stride, own, padded in zip(network.strides, network(images), network(square), strict=True):
        height, width = size[0] // stride, size[1] // stride
        assert own.shape[-2:] == (height, width)
        torch.testing.assert_close(own, padded[..., :height, :width])


def test_stages_and_layers_cover_all_but_the_pyramid(network):
    from backbones.base import parameters_of

    learned = {id(p) for name, p in network.named_parameters() if not name.startswith("pyramid.")}
    for parts, count in ((network.stages(), 5), (network.layers(), 9)):
        found = [id(p) for part in parts for p in parameters_of(part)]
        assert (len(parts), len(found), set(found)) == (count, len(learned), learned)


def test_the_drop_path_rises_to_the_last_block():
    network = ViTDet(TINY, drop_path=0.35)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in network.blocks]
    assert rates == pytest.approx([0.05 * i for i in range(8)])


@pytest.mark.parametrize("name", VITDETS)
def test_an_option_of_other_networks_is_rejected(name):
    with pytest.raises(ValueError, match="width"):
        build(BackboneConfig(name, width=32))

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from detection.models.anchors import AnchorConfig, Anchors

CPU = torch.device("cpu")


def test_a_square_anchor_is_centred_on_its_cell():
    level = Anchors((4,), AnchorConfig((32,), (1.0,)))((8, 8), [(2, 2)], CPU).boxes
    # Cells at (0, 0), (4, 0), (0, 4), (4, 4); half of 32 is 16.
    expected = [[-16, -16, 16, 16], [-12, -16, 20, 16], [-16, -12, 16, 20], [-12, -12, 20, 20]]
    assert level.tolist() == expected


def test_a_ratio_is_height_over_width_at_equal_area():
    wide, tall = Anchors((4,), AnchorConfig((32,), (0.25, 4.0)))((4, 4), [(1, 1)], CPU).boxes
    assert wide.tolist() == [-32, -8, 32, 8]  # 64 x 16 = 32 x 32
    assert tall.tolist() == [-8, -32, 8, 32]


@pytest.mark.parametrize("sizes", [((32,), (64,)), ((8, 16, 32), (64, 80, 100))])
def test_torchvisions_anchors_agree(sizes):
    canvas, grids = (96, 160), [(24, 40), (2, 3)]  # 96 // 2 = 48 and 160 // 3 = 53, not 64
    ours = Anchors((4, 64), AnchorConfig(sizes, rounded=True, stride_from_canvas=True))(canvas, grids, CPU)
    images = ImageList(torch.zeros(1, 3, *canvas), [canvas])
    features = [torch.zeros(1, 1, *grid) for grid in grids]
    (theirs,) = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 2)(images, features)
    torch.testing.assert_close(ours.boxes, theirs)


def test_an_anchor_is_inside_where_its_cell_begins_on_the_image_or_up_to_the_next_multiple_of_32():
    anchors = Anchors((16, 32), AnchorConfig((32, 64), (0.5, 1.0)))((64, 96), [(4, 6), (2, 3)], CPU)
    inside = anchors.inside(torch.tensor([[20, 33], [64, 96], [0, 0]]))
    finest, coarsest = (
        part.unflatten(1, (rows, -1, 2))
        for part, rows in zip(inside.split(anchors.lengths, dim=1), (4, 2), strict=True)
    )
    assert finest[0, :2, :4].all()  # 20 x 33 counts as 32 x 64
    assert finest[0].sum() == 2 * 4 * 2
    assert coarsest[0, :1, :2].all()
    assert coarsest[0].sum() == 1 * 2 * 2
    assert inside[1].all()
    assert not inside[2].any()


def test_one_size_per_level_is_required():
    with pytest.raises(ValueError, match="the length of sizes is 2, but the number of pyramid levels is 1"):
        Anchors((4,), AnchorConfig((32, 64)))

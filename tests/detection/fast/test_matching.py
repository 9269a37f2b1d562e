"""Anchors of the cells that an object touches, compared with all anchors."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.fast import matching as module
from detection.fast.matching import match_anchors
from detection.models.anchors import AnchorConfig, Anchors
from detection.ops.matching import match

GRIDS = [(12, 16), (6, 8), (3, 4), (2, 2)]


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**16),
    objects=st.integers(1, 8),
    whole=st.booleans(),
    rounded=st.booleans(),
    from_canvas=st.booleans(),
    crowds=st.booleans(),
)
def test_not_a_bit_differs_from_comparing_all(seed, objects, whole, rounded, from_canvas, crowds):
    generator = torch.Generator().manual_seed(seed)
    anchors = Anchors((4, 8, 16, 32), AnchorConfig((8, 16, 32, 64), rounded=rounded, stride_from_canvas=from_canvas))
    placed = anchors((48, 64), GRIDS, torch.device("cpu")).boxes
    corner = torch.rand(2, objects, 2, generator=generator) * 70 - 10  # beyond the canvas, too
    boxes = torch.cat([corner, corner + torch.rand(2, objects, 2, generator=generator) * 60], dim=-1)
    boxes = boxes.round() if whole else boxes  # equal ones and touching edges are then common
    boxes[:, -1] = boxes[:, 0]
    boxes[0, -1] = 0  # padding
    crowd = (torch.rand(2, objects, generator=generator) < 0.3) & crowds
    ours = match_anchors(boxes, crowd, placed, GRIDS, 0.3, 0.6)
    theirs = match(boxes, crowd, placed, 0.3, 0.6, keep_best=True)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_an_object_is_compared_with_few_anchors(monkeypatch):
    compared = []
    inner = module._match_one

    def spy(levels, image, g, size, is_crowd):
        compared.append(sum((b - t) * (r - c) for t, b, c, r in (level.windows[image][g] for level in levels)))
        inner(levels, image, g, size, is_crowd)

    monkeypatch.setattr(module, "_match_one", spy)
    placed = Anchors((4, 8, 16, 32), AnchorConfig((8, 16, 32, 64)))((48, 64), GRIDS, torch.device("cpu")).boxes
    boxes = torch.tensor([[[10.0, 10, 14, 14], [0, 0, 0, 0]], [[0, 0, 64, 48], [0, 0, 0, 0]]])
    match_anchors(boxes, torch.zeros(2, 2, dtype=torch.bool), placed, GRIDS, 0.3, 0.6)
    assert len(compared) == 2, "padding is compared with nothing"
    assert compared[0] < 40
    assert compared[1] == sum(rows * columns for rows, columns in GRIDS)

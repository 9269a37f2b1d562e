"""The anchors of a canvas are computed once."""

from collections import OrderedDict

import torch

from detection.fast.anchors import CANVASES, _Cache, cached_anchors
from detection.models.anchors import AnchorConfig, Anchors, CanvasAnchors

CPU = torch.device("cpu")


def of(anchors: Anchors, width: int) -> CanvasAnchors:
    return cached_anchors(anchors, (8, 4 * width), [(2, width)], CPU)


def test_anchors_of_a_canvas_are_made_once_but_not_kept_of_every_canvas_ever_met():
    anchors = Anchors((4,), AnchorConfig((32,)))
    first = of(anchors, 2)
    for width in range(3, CANVASES + 2):
        assert of(anchors, 2) is first
        of(anchors, width)
    for width in range(20, CANVASES + 20):
        of(anchors, width)
    again = of(anchors, 2)
    assert again is not first
    assert torch.equal(again.boxes, first.boxes)


def test_another_thread_may_make_room_meanwhile(monkeypatch):
    class Busy(OrderedDict):
        def __setitem__(self, key, value):
            """Gone as soon as it is there."""

    monkeypatch.setattr("detection.fast.anchors.OrderedDict", Busy)
    assert isinstance(_Cache().canvases, Busy)
    assert len(of(Anchors((4,), AnchorConfig(sizes=(32,))), 2).boxes) == 12

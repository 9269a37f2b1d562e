"""Anchors that are computed once per canvas and device."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from detection.models.anchors import Anchors, CanvasAnchors

CANVASES = 16
"""Canvases whose anchors are kept, the latest met; those of 800 x 1333 pixels take 5 MB."""


class Kept:
    """What is kept of one :class:`~detection.models.anchors.Anchors`."""

    def __init__(self) -> None:
        self.cells: dict[torch.device, list[Tensor]] = {}
        self.canvases: OrderedDict[tuple[object, ...], CanvasAnchors] = OrderedDict()


_kept: WeakKeyDictionary[Anchors, Kept] = WeakKeyDictionary()


def kept_anchors(
    anchors: Anchors, canvas: tuple[int, int], grids: Sequence[tuple[int, int]], device: torch.device
) -> CanvasAnchors:
    """Return ``anchors(canvas, grids, device)``, computed once for each of the latest canvases."""
    kept, key = _kept.setdefault(anchors, Kept()), (canvas, tuple(grids), device)
    found = kept.canvases.get(key)
    if found is None:
        if device not in kept.cells:  # a copy for which the host waits
            kept.cells[device] = [cell.to(device) for cell in anchors.cells]
        found = kept.canvases[key] = anchors.around(kept.cells[device], canvas, grids)
    with suppress(KeyError):  # another thread has made room
        kept.canvases.move_to_end(key)
        while len(kept.canvases) > CANVASES:
            kept.canvases.popitem(last=False)
    return found

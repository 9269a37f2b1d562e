"""A cache of anchors per canvas and device."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from detection.models.anchors import Anchors, CanvasAnchors

CANVASES = 16
"""Largest number of canvases in the cache; the anchors of 800 x 1333 pixels take 5 MB."""


class _Cache:
    """The cache of one :class:`~detection.models.anchors.Anchors`."""

    def __init__(self) -> None:
        self.cells: dict[torch.device, list[Tensor]] = {}
        self.canvases: OrderedDict[tuple[object, ...], CanvasAnchors] = OrderedDict()


_caches: WeakKeyDictionary[Anchors, _Cache] = WeakKeyDictionary()


def cached_anchors(
    anchors: Anchors, canvas: tuple[int, int], grids: Sequence[tuple[int, int]], device: torch.device
) -> CanvasAnchors:
    """Return ``anchors(canvas, grids, device)`` from a cache of the most recently used canvases."""
    kept, key = _caches.setdefault(anchors, _Cache()), (canvas, tuple(grids), device)
    found = kept.canvases.get(key)
    if found is None:
        if device not in kept.cells:  # this copy synchronises with the GPU
            kept.cells[device] = [cell.to(device) for cell in anchors.cells]
        found = kept.canvases[key] = anchors.around(kept.cells[device], canvas, grids)
    with suppress(KeyError):  # another thread has removed the entry
        kept.canvases.move_to_end(key)
        while len(kept.canvases) > CANVASES:
            kept.canvases.popitem(last=False)
    return found

"""Measure the peak memory of training steps, each contestant in its own process."""

from argparse import Namespace
from typing import Any

import torch

from detection.device import best_device
from detection.memory import most_resident, resident
from detection.structures import Batch, Targets
from tools.benchmark.alone import apart, own_batch, prepare
from tools.benchmark.contestants import CLASSES, KEYPOINTS, pair
from tools.benchmark.data import persons

CROWDED = 1000
"""Number of objects in the crowded image."""

MIXED = 36
"""Number of training steps with images of several sizes."""


def memory_rows(options: Namespace, size: int) -> list[dict[str, Any]]:
    """Compare this toolkit with torchvision in every precision of the options."""
    rows = []
    for precision in options.precisions:
        peaks = {who: _peak(options, who, [size], precision) for who in ("ours", "torchvision")}
        rows.append(_compared(f"peak memory of a training step, {size} px, {precision}", peaks))
    return rows


def mixed_row(options: Namespace, size: int) -> dict[str, Any]:
    """Compare this toolkit with torchvision after many steps of eight sizes, which fragment the heap."""
    sizes, precision = [round(size * eighths / 8) for eighths in range(6, 14)], options.precisions[0]
    peaks = {who: _peak(options, who, sizes, precision, MIXED) for who in ("ours", "torchvision")}
    return _compared(f"peak memory of {MIXED} training steps, {sizes[0]} to {sizes[-1]} px, {precision}", peaks)


def crowded_row(options: Namespace, size: int) -> dict[str, Any]:
    """Measure this toolkit with one image that has very many objects."""
    peak = _peak(options, "crowded", [size], options.precisions[0])
    return _row(f"peak memory, an image of {CROWDED} objects, {size} px, {options.precisions[0]}", {"ours": peak})


class Measured:
    """A contestant in its own process, and the memory of the process before the first step."""

    def __init__(self, options: Namespace, who: str, sizes: list[int], precision: str) -> None:
        self.settle = prepare(options, who, max(sizes), precision, "train")
        self.data = [own_batch(options, size) for size in sizes]
        if who == "crowded":
            self.data = [crowded(size) for size in sizes]
            if options.detector == "keypoint_rcnn":
                self.data = [persons(batch, KEYPOINTS) for batch in self.data]
        # Keep both models: steps would reuse the memory that the other one freed, and the peak would miss it.
        self.both = pair(options.backbone, best_device(), precision, options.peer_precision, options.detector)
        self.chosen: Any = self.both[who == "torchvision"]
        self.before = resident()

    def peak(self, steps: int) -> float:
        """Run steps and return the peak memory in GB, without libraries and weights."""
        for step in range(steps):
            self.chosen.train(self.data[5 * step % len(self.data)])  # alternates between small and large images
            self.settle()
        if best_device().type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e9
        return (most_resident() - self.before) / 1e9


def crowded(size: int) -> Batch:
    """Return an image of noise with :data:`CROWDED` objects of all sizes."""
    generator = torch.Generator().manual_seed(0)
    height, width = (-(-side // 32) * 32 for side in (size, size * 4 // 3))
    corners = torch.rand(CROWDED, 2, 2, generator=generator) * torch.tensor([width, height])
    boxes = torch.cat([corners.amin(1), corners.amax(1) + 4], dim=-1).clamp(max=float(width))
    boxes[:, 1::2].clamp_(max=height)
    targets = Targets(
        boxes[None],
        torch.randint(CLASSES, (1, CROWDED), generator=generator),
        torch.zeros(1, CROWDED, dtype=torch.bool),
        torch.ones(1, CROWDED, 112, 112, dtype=torch.uint8),
    )
    image = torch.randint(0, 255, (1, 3, height, width), dtype=torch.uint8, generator=generator)
    sizes = torch.tensor([[height, width]])
    return Batch(image, sizes, sizes, torch.zeros(1, dtype=torch.int64), targets)


def _peak(options: Namespace, who: str, sizes: list[int], precision: str, steps: int = 2) -> float:
    with apart(Measured, options, who, sizes, precision) as measured:
        return float(measured("peak", steps))


def _row(what: str, peaks: dict[str, float]) -> dict[str, Any]:
    return {"what": what, "gigabytes": {who: round(peak, 3) for who, peak in peaks.items()}}


def _compared(what: str, peaks: dict[str, float]) -> dict[str, Any]:
    return _row(what, peaks) | {"ratio": {"ours / torchvision": peaks["ours"] / peaks["torchvision"]}}

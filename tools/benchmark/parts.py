"""Measure training steps, inference, RoIAlign and loading, compared with torchvision."""

from argparse import Namespace
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchvision.ops import MultiScaleRoIAlign

from detection.coco.annotations import Annotations
from detection.ops.roi_align import roi_align
from tools.benchmark.alone import Alone, What, apart
from tools.benchmark.apart import Apart
from tools.benchmark.loading import WAYS, Loading
from tools.benchmark.timing import Comparison, Step, in_turn

Shares = dict[str, dict[str, float]]
"""Seconds of each part, by benchmark."""

THROUGH_WORKER = "loading through one worker"


def model_rows(options: Namespace, size: int, precision: str, shares: Shares) -> list[dict[str, Any]]:
    """Measure a training step and inference at one size and precision, each contestant in its own process."""
    names = ["ours", "torchvision", *([options.peer] if options.peer else [])]
    kinds: dict[What, str] = {"train": "training step", "infer": "inference"}
    rows = []
    for what, kind in kinds.items():
        if what not in options.parts:
            continue
        with ExitStack() as stack:
            alone = {who: stack.enter_context(apart(Alone, options, who, size, precision, what)) for who in names}
            steps: dict[str, Step] = {who: partial(one, "step") for who, one in alone.items()}
            found = in_turn(steps, options.rounds)
            rate = {who: round(options.batch / found.median(who), 3) for who in names}
            row = comparison_row(f"{kind}, {size} px, {precision}", found) | {"images_per_second": rate}
            if what == "infer":
                row["detections"] = {who: one("numbers") for who, one in alone.items()}
            rows.append(row)
            shares[f"{'a ' if what == 'train' else ''}{kind}, {size} px, {precision}"] = alone["ours"]("shares")
    return rows


def roi_align_rows(device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Measure RoIAlign with 1024 RoIs of 7 x 7 on two images and all levels."""
    generator = torch.Generator().manual_seed(0)
    strides, canvas = (4, 8, 16, 32), (320, 448)
    corners = torch.rand(2, 512, 2, 2, generator=generator) * torch.tensor([canvas[1], canvas[0]])
    boxes = torch.cat([corners.amin(2), corners.amax(2) + 1], dim=-1).to(device)
    rows = []
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        shapes = [(2, 256, canvas[0] // s, canvas[1] // s) for s in strides]
        theirs = [torch.rand(s, generator=generator).to(device).requires_grad_() for s in shapes]
        ours = [x.detach().to(dtype, memory_format=torch.channels_last).requires_grad_() for x in theirs]
        pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
        named = {str(i): x for i, x in enumerate(theirs)}

        def forward_ours() -> torch.Tensor:
            return roi_align(ours, strides, boxes, 7, 2, aligned=False)  # noqa: B023

        def forward_theirs() -> torch.Tensor:
            return pool(named, list(boxes), [canvas] * 2)  # noqa: B023

        error = (forward_ours().flatten(0, 1).float() - forward_theirs()).abs().max().item()
        with torch.no_grad():
            found = in_turn({"ours": forward_ours, "torchvision": forward_theirs}, rounds)
        rows.append(comparison_row(f"RoIAlign, {name}, largest difference {error:.0e}", found))
        both = {
            "ours": lambda: forward_ours().sum().backward(),
            "torchvision": lambda: forward_theirs().sum().backward(),
        }
        rows.append(comparison_row(f"RoIAlign, {name}, and backward", in_turn(both, rounds)))
    return rows


def data_rows(annotations: Annotations, images: Path, rounds: int) -> list[dict[str, Any]]:
    """Measure loading of images with masks: samples on one core, and batches through a data loader with one worker."""
    rows = []
    for worker, what in ((False, "loading, one core"), (True, THROUGH_WORKER)):
        with ExitStack() as stack:
            alone = {way: stack.enter_context(Apart(Loading, annotations, images, way, worker)) for way in WAYS}
            found = in_turn({way: partial(one, "load") for way, one in alone.items()}, rounds)
        rate = {way: round(len(annotations) / found.median(way), 1) for way in WAYS}
        rows.append(comparison_row(what, found) | {"images_per_second": rate})
    return rows


def comparison_row(what: str, found: Comparison) -> dict[str, Any]:
    """Return a row with medians, and with the time of each contestant divided by the time of the first."""
    return {
        "what": what,
        "seconds": {who: round(found.median(who), 4) for who in found.seconds},
        "ratio": {who: round(found.ratio(who), 2) for who in list(found.seconds)[1:]},
        "rounds": {who: [round(s, 4) for s in seconds] for who, seconds in found.seconds.items()},
    }

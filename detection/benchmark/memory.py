"""Peak memory of training steps, each contestant in a process of its own, so that none inherits what another held."""

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from detection.benchmark.contestants import CLASSES, pair
from detection.benchmark.data import batches, open_data
from detection.memory import finest_map, keep_freed_memory, most_resident, resident
from detection.structures import Batch, Targets

CROWDED = 1000
"""Objects of the image that must train in little memory."""


def memory_rows(options: Namespace, size: int) -> list[dict[str, Any]]:
    """Ours beside torchvision's, in every precision that is asked for."""
    rows = []
    for precision in options.precisions:
        peaks = {who: _peak(options, who, size, precision) for who in ("ours", "torchvision")}
        what = f"peak memory of a training step, {size} px, {precision}"
        rows.append(_row(what, peaks) | {"ratio": {"ours / torchvision": peaks["ours"] / peaks["torchvision"]}})
    return rows


def crowded_row(options: Namespace, size: int) -> dict[str, Any]:
    """Ours, of one image with very many objects."""
    peak = _peak(options, "crowded", size, options.precisions[0])
    return _row(f"peak memory, an image of {CROWDED} objects, {size} px, {options.precisions[0]}", {"ours": peak})


def measure(options: Namespace, device: torch.device) -> None:
    """What the process of its own does: print the peak of two steps, in gigabytes above libraries and weights."""
    size = options.sizes[0]
    if options.only_memory != "torchvision" and device.type == "cpu":  # as our training does
        keep_freed_memory(finest_map(options.batch, size, size * 1333 / 800, 256, options.precisions[0]))
    with tempfile.TemporaryDirectory() as folder:
        data = batches(*open_data(options.annotations, options.images, Path(folder)), size, options.batch, 1)[0]
    if options.only_memory == "crowded":
        data = crowded(size)
    ours, peer = pair(options.backbone, device, options.precisions[0], options.peer_precision)
    chosen: Any = peer if options.only_memory == "torchvision" else ours
    before = resident()
    for _ in range(2):
        chosen.train(data)
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated() / 1e9)
    else:
        print((most_resident() - before) / 1e9)


def crowded(size: int) -> Batch:
    """One image of noise with :data:`CROWDED` objects of all sizes."""
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


def _peak(options: Namespace, who: str, size: int, precision: str) -> float:
    command = [sys.executable, "-m", "detection.benchmark", "--only-memory", who, "--sizes", str(size)]
    command += ["--batch", str(options.batch), "--backbone", options.backbone, "--threads", str(options.threads)]
    command += ["--precisions", precision, "--peer-precision", options.peer_precision]
    if options.annotations:
        command += ["--annotations", str(options.annotations), "--images", str(options.images)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return float(printed.split()[-1])


def _row(what: str, peaks: dict[str, float]) -> dict[str, Any]:
    return {"what": what, "gigabytes": {who: round(peak, 3) for who, peak in peaks.items()}}

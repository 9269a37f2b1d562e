"""The command ``tools/benchmark.py``: run the benchmarks, print a table and write JSON."""

import argparse
import json
import math
import platform
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torchvision

from detection.device import accelerator_name, best_device, processor_name
from detection.engine.precision import best_precision
from detection.home import command_line
from tools.benchmark.data import batches, open_data
from tools.benchmark.evaluation import evaluation_rows
from tools.benchmark.memory import crowded_row, memory_rows, mixed_row
from tools.benchmark.parts import THROUGH_WORKER, Shares, data_rows, model_rows, roi_align_rows
from tools.benchmark.rest import rest_rows

PARTS = ("train", "infer", "roi_align", "data", "evaluation", "memory")
ON_DEMAND = ("rest", "mixed")
"""Parts that run only on request. rest: time of a bfloat16 step outside convolutions, on a CPU without bfloat16.
mixed: memory after many steps of several sizes."""


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark, print a line for each result, and write JSON."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    device = best_device()
    rows: list[dict[str, Any]] = []
    shares: Shares = {}
    for row in _rows(options, device, shares):
        print(_line(row), flush=True)
        rows.append(row)
    for label, parts in shares.items():
        total = sum(parts.values())
        percentages = ", ".join(f"{part} {100 * seconds / total:.0f}%" for part, seconds in parts.items())
        print(f"where the time goes, {label}: {percentages}")
    for sentence in advice(rows):
        print(sentence)
    if options.output:
        found = {"machine": _machine(), "rows": rows, "shares": shares}
        options.output.write_text(json.dumps(found, indent=1), encoding="utf-8")


def advice(rows: list[dict[str, Any]]) -> list[str]:
    """Return a recommended number of data-loader workers for each measured training step."""
    rates = {row["what"]: row["images_per_second"]["ours"] for row in rows if "images_per_second" in row}
    loading = rates.get(THROUGH_WORKER)
    if loading is None:
        return []
    return [
        f"{what}: {rate:g} images/s; one worker loads {loading:g}: "
        + ("loading is not the limit" if rate < loading / 2 else f"set data.workers {math.ceil(1.5 * rate / loading)}")
        for what, rate in rates.items()
        if what.startswith("training")
    ]


def _rows(options: argparse.Namespace, device: torch.device, shares: Shares) -> Iterable[dict[str, Any]]:
    parts = options.parts
    with tempfile.TemporaryDirectory() as folder:
        annotations, images = open_data(options.annotations, options.images, Path(folder))
        for size in options.sizes:
            if {"train", "infer"} & {*parts}:
                for precision in options.precisions:
                    yield from model_rows(options, size, precision, shares)
            if "rest" in parts:
                yield from rest_rows(options, batches(annotations, images, size, options.batch, 1)[0], f"{size} px")
            if "memory" in parts:
                yield from memory_rows(options, size)
                yield crowded_row(options, size)
            if "mixed" in parts:
                yield mixed_row(options, size)
        if "roi_align" in parts:
            yield from roi_align_rows(device, options.rounds)
        if "data" in parts:
            yield from data_rows(annotations, images, options.rounds)
        if "evaluation" in parts:
            yield from evaluation_rows(max(1, options.rounds // 2))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time this toolkit and torchvision in turn on this machine.")
    parser.add_argument("--annotations", type=Path, help="COCO annotation file; default: synthetic shapes")
    parser.add_argument("--images", type=Path, help="folder of its images")
    parser.add_argument("--detector", default="mask_rcnn", choices=["mask_rcnn", "keypoint_rcnn", "retinanet", "fcos"])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--sizes", type=int, nargs="+", default=[320], help="shorter sides of the images, in pixels")
    parser.add_argument("--batch", type=int, default=2)
    known = ["fp32", "bf16"]
    fast = known if best_precision("auto").precision == "bf16-mixed" else known[:1]
    parser.add_argument(
        "--precisions", nargs="+", default=fast, choices=known, help="of this toolkit; default: bf16 only if it is fast"
    )
    parser.add_argument(
        "--peer-precision", default="fp32", choices=known, help="of torchvision; bf16: autocast and channels last"
    )
    parser.add_argument("--peer", choices=["detectron2"], help="also measure this toolkit, which must be installed")
    parser.add_argument(
        "--compile",
        nargs="?",
        const="true",
        choices=["true", "graphs"],
        help="compile the model, as model.compile does",
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS + ON_DEMAND)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="JSON file for all results")
    options = parser.parse_args(command_line(arguments))
    if options.peer and find_spec(options.peer) is None:
        parser.error(f"--peer {options.peer}: not installed; install it or leave --peer out")
    return options


def _line(row: dict[str, Any]) -> str:
    unit = "GB" if "gigabytes" in row else "s"
    values = row.get("gigabytes") or row["seconds"]
    numbers = ", ".join(f"{who} {value:.3g} {unit}" for who, value in values.items())
    ratios = ", ".join(f"{who} x{ratio:.2f}" for who, ratio in row.get("ratio", {}).items())
    rate = row.get("images_per_second")
    per_second = "; images/s: " + ", ".join(f"{who} {value:.4g}" for who, value in rate.items()) if rate else ""
    return f"{row['what']}: {numbers}" + (f" ({ratios})" if ratios else "") + per_second


def _machine() -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device": accelerator_name() or "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "command": " ".join(sys.argv),
    }

"""``tools/benchmark.py``: what is timed, the table and the JSON."""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torchvision
from torchvision.ops import MultiScaleRoIAlign

from detection.benchmark.contestants import equalise, pair
from detection.benchmark.data import batches, loaders, open_data
from detection.benchmark.timing import Comparison, Step, in_turn
from detection.ops.roi_align import roi_align
from detection.structures import Batch

PARTS = ("train", "infer", "roi_align", "data", "memory")


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark, print a table and write JSON."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.only_memory:
        return _measure_memory(options, device)
    rows: list[dict[str, Any]] = []
    shares: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        annotations, images = open_data(options.annotations, options.images, Path(folder))
        for size in options.sizes:
            batch = batches(annotations, images, size, options.batch, 1)[0]
            for precision in options.precisions:
                rows += _model(options, device, batch, f"{size} px, {precision}", precision, shares)
            if "memory" in options.parts:
                rows += _memory(options, size)
        if "roi_align" in options.parts:
            rows += _roi_align(device, options.rounds)
        if "data" in options.parts:
            rows += _data(annotations, images, options.rounds)
    _print(rows, shares)
    if options.output:
        options.output.write_text(json.dumps({"machine": _machine(), "rows": rows, "shares": shares}, indent=1))


def _model(
    options: argparse.Namespace,
    device: torch.device,
    batch: Batch,
    label: str,
    precision: str,
    shares: dict[str, dict[str, float]],
) -> list[dict[str, Any]]:
    """A training step and inference, of one batch and one precision."""
    rows = []
    ours, peer = pair(options.backbone, device, precision, options.peer_precision)
    equalise(ours, peer, batch)
    if "train" in options.parts:
        steps: dict[str, Step] = {"ours": lambda: ours.train(batch), "torchvision": lambda: peer.train(batch)}
        rows.append(_row(f"training step, {label}", in_turn(steps, options.rounds)))
        shares[f"a training step, {label}"] = ours.shares(ours.train, batch)
        equalise(ours, peer, batch)
    if "infer" in options.parts:
        steps = {"ours": lambda: ours.infer(batch), "torchvision": lambda: peer.infer(batch)}
        rows.append(_row(f"inference, {label}", in_turn(steps, options.rounds)))
        shares[f"inference, {label}"] = ours.shares(ours.infer, batch)
        rows[-1]["detections"] = {
            "ours": [int((labels >= 0).sum()) for labels in ours.infer(batch).labels],
            "torchvision": [len(found["labels"]) for found in peer.infer(batch)],
        }
    return rows


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time this toolkit and torchvision in turn on this machine.")
    parser.add_argument("--annotations", type=Path, help="a COCO annotation file; drawn shapes if not given")
    parser.add_argument("--images", type=Path, help="its folder of images")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--sizes", type=int, nargs="+", default=[320], help="shortest sides of the images")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"], help="ours")
    parser.add_argument(
        "--peer-precision", default="fp32", choices=["fp32", "bf16"], help="torchvision's; bf16: autocast"
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="write everything to this JSON file")
    parser.add_argument("--only-memory", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _row(name: str, found: Comparison) -> dict[str, Any]:
    return {
        "what": name,
        "seconds": {who: round(found.median(who), 4) for who in found.seconds},
        "ratio": {who: round(found.ratio(who), 2) for who in list(found.seconds)[1:]},
        "rounds": {who: [round(s, 4) for s in seconds] for who, seconds in found.seconds.items()},
    }


def _roi_align(device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """1024 RoIs of 7 x 7 on two images, all levels."""
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
        rows.append(_row(f"RoIAlign, {name}, largest difference {error:.0e}", found))
        both = {
            "ours": lambda: forward_ours().sum().backward(),
            "torchvision": lambda: forward_theirs().sum().backward(),
        }
        rows.append(_row(f"RoIAlign, {name}, and backward", in_turn(both, rounds)))
    return rows


def _data(annotations: Any, images: Path, rounds: int) -> list[dict[str, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = in_turn(loaders(annotations, images), max(1, rounds // 2))
    torch.set_num_threads(threads)
    row = _row("loading, one core", found)
    row["images_per_second"] = {who: round(len(annotations) / found.median(who), 1) for who in found.seconds}
    return [row]


def _memory(options: argparse.Namespace, size: int) -> list[dict[str, Any]]:
    """Peak memory of two training steps, each contestant in a process of its own."""
    rows = []
    for precision in options.precisions:
        peaks = {}
        for who in ("ours", "torchvision"):
            command = [sys.executable, "-m", "detection.benchmark", "--only-memory", who, "--sizes", str(size)]
            command += [
                "--batch",
                str(options.batch),
                "--backbone",
                options.backbone,
                "--threads",
                str(options.threads),
            ]
            command += ["--precisions", precision, "--peer-precision", options.peer_precision]
            if options.annotations:
                command += ["--annotations", str(options.annotations), "--images", str(options.images)]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            peaks[who] = float(printed.split()[-1])
        rows.append(
            {
                "what": f"peak memory of a training step, {size} px, {precision}",
                "gigabytes": {who: round(peak, 3) for who, peak in peaks.items()},
                "ratio": {"ours / torchvision": round(peaks["ours"] / peaks["torchvision"], 2)},
            }
        )
    return rows


def _measure_memory(options: argparse.Namespace, device: torch.device) -> None:
    with tempfile.TemporaryDirectory() as folder:
        annotations, images = open_data(options.annotations, options.images, Path(folder))
        data = batches(annotations, images, options.sizes[0], options.batch, 1)[0]
    chosen: Any = pair(options.backbone, device, options.precisions[0], options.peer_precision)[
        0 if options.only_memory == "ours" else 1
    ]
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e3
    for _ in range(2):
        chosen.train(data)
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated() / 1e9)
    else:
        # Kilobytes on Linux, on top of the libraries and the weights.
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)


def _print(rows: list[dict[str, Any]], shares: dict[str, dict[str, float]]) -> None:
    for row in rows:
        unit = "GB" if "gigabytes" in row else "s"
        values = row.get("gigabytes") or row["seconds"]
        numbers = ", ".join(f"{who} {value:.3g} {unit}" for who, value in values.items())
        ratios = ", ".join(f"{who} x{ratio:.2f}" for who, ratio in row["ratio"].items())
        rate = row.get("images_per_second")
        per_second = "; images/s: " + ", ".join(f"{who} {value:g}" for who, value in rate.items()) if rate else ""
        print(f"{row['what']}: {numbers} ({ratios}){per_second}")
    for label, parts in shares.items():
        total = sum(parts.values())
        print(f"where the time goes, {label}: " + ", ".join(f"{k} {100 * v / total:.0f}%" for k, v in parts.items()))


def _machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "command": " ".join(sys.argv),
    }

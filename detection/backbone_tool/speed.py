"""The table of docs/backbones.md: what Mask R-CNN costs with each backbone, on one machine.

Each backbone is measured in a process of its own, whose peak memory is then its own.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from backbones import BackboneConfig
from detection.backbone_tool.describe import costs
from detection.benchmark.contestants import Ours
from detection.benchmark.data import batches, open_data
from detection.models.rcnn import mask_rcnn

NAMES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
    *("wide_resnet50_2", "vgg16", "densenet121", "efficientnet_b0", "efficientnet_b3", "efficientnet_v2_s"),
    *("mobilenet_v2", "mobilenet_v3_large", "regnet_y_400mf", "regnet_y_8gf", "convnext_tiny", "convnext_small"),
    *("swin_t", "swin_s"),
)
"""What is measured if no names are given."""
BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"


def measure(name: str, size: int, batch: int, rounds: int, precision: str) -> dict[str, Any]:
    """Train and run Mask R-CNN in this process.

    Args:
        size: shortest side of the images; the longest is at most 1333/800 of it.
        rounds: steps that count, after one that does not.

    Returns:
        images per second and gigabytes: ``train``, ``infer`` and ``memory``, and the costs of the backbone alone.
    """
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        data = batches(*open_data(None, None, Path(folder)), size, batch, 1)[0]
    counted = costs(name, 800, 1333)
    before = _resident()  # libraries and data
    model = mask_rcnn(BackboneConfig(name))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all steps: an untrained network evaluates without overflow
    ours = Ours(model.to(device, memory_format=torch.channels_last), device, precision)  # type: ignore[call-overload]
    train = _rate(lambda: ours.train(data), batch, rounds)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else _peak() - before
    # What an untrained network detects by chance would decide about the time: nothing, so that no masks are made.
    model.box_head.score_threshold = 1.0
    infer = _rate(lambda: ours.infer(data), batch, rounds)
    return {
        "parameters": counted.parameters,
        "multiply_adds": counted.multiply_adds,
        "train": train,
        "infer": infer,
        "memory": memory / 1e9,
    }


def table(names: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Rows of Markdown; a backbone that fails gets a row that says why."""
    rows = [
        "| backbone | parameters, M | GFLOPs | training, images/s | inference, images/s | peak memory, GB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in names:
        command = [sys.executable, "-m", "detection.backbone_tool", "measure", name, *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:120]
            rows.append(f"| `{name}` | not measured: {reason} | | | | |")
        else:
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append(
                f"| `{name}` | {found['parameters'] / 1e6:.1f} | {found['multiply_adds'] / 1e9:.1f} | "
                f"{found['train']:.3g} | {found['infer']:.3g} | {found['memory']:.2f} |"
            )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def insert(text: str, path: Path) -> None:
    """Put text between the marks of a file, instead of what is there."""
    head, tail = around(path)
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


def around(path: Path) -> tuple[str, str]:
    """What stands before and behind the marks of a file.

    Raises:
        ValueError: no such file, or it has no marks.
    """
    if not path.is_file():
        raise ValueError(f"no file {path} to put the table into")
    page = path.read_text(encoding="utf-8")
    if BEGIN not in page or END not in page:
        raise ValueError(f"{path} has no place for the table; add the lines {BEGIN} and {END}")
    return page.partition(BEGIN)[0], page.partition(END)[2]


def machine() -> str:
    """Processor, threads and accelerator in a line."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else (names[0] if names else "CPU")
    return f"{where}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"


def _rate(step: Callable[[], object], batch: int, rounds: int) -> float:
    """Images per second: the median of the rounds."""
    seconds = []
    for i in range(1 + rounds):
        start = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if i:
            seconds.append(time.perf_counter() - start)
    return batch / statistics.median(seconds)


def _resident() -> int:
    """Bytes in use by this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    """Bytes; Linux counts in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

"""Measure Mask R-CNN with each backbone on this machine, for the table in docs/benchmarks/backbones.md.

Each backbone runs in its own process, so that its peak memory is measured separately and a failure stops no other.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from backbones import BackboneConfig, available
from detection import fast
from detection.backbone_tool.describe import costs
from detection.backbone_tool.steps import Steps, synthetic_batch
from detection.device import accelerator_name, best_device, processor_name
from detection.memory import most_resident, resident
from detection.models.factories import mask_rcnn
from detection.wording import plural

TIMM = (
    *("resnet50.a1_in1k", "resnet50d", "res2net50_26w_4s", "regnety_032", "cspdarknet53", "dla34", "hrnet_w18"),
    *("vovnet39a", "repvgg_a2", "nfnet_l0", "mobilenetv4_conv_medium", "ghostnetv2_100", "rexnet_100", "lcnet_100"),
    *("convnextv2_nano", "convnextv2_tiny", "inception_next_tiny", "edgenext_small", "mobilevitv2_100", "fastvit_sa12"),
    *("repvit_m1", "starnet_s3", "efficientvit_b1", "tiny_vit_21m_224", "swinv2_tiny_window8_256"),
    *("maxvit_tiny_tf_224", "pvt_v2_b2", "twins_pcpvt_small", "mvitv2_tiny", "davit_tiny", "focalnet_tiny_srf"),
    *("nextvit_small", "caformer_s18", "poolformerv2_s12", "mambaout_tiny", "hieradet_small", "vit_small_patch16_224"),
    *("deit3_small_patch16_224", "vit_small_patch14_dinov2", "eva02_small_patch14_224", "samvit_base_patch16"),
)
"""A selection of timm's models."""
NAMES = (*(name for name in available() if "128gf" not in name), *(f"timm/{name}" for name in TIMM))
"""Backbones to measure by default, without the largest RegNet, whose weights take 8 GB."""
HEAD = (
    "| backbone | parameters, M | GFLOPs | training, images/s | inference, images/s | peak memory, GB |",
    "| --- | ---: | ---: | ---: | ---: | ---: |",
)
BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"


def measure(name: str, size: int, batch: int, rounds: int, precision: str) -> dict[str, Any]:
    """Train and run Mask R-CNN in this process, and measure it.

    Args:
        name: the backbone.
        size: shorter side of the images; the longer side is at most 1333/800 of it.
        batch: images per batch.
        rounds: number of steps to measure, after one step to warm up.
        precision: ``fp32`` or ``bf16``.

    Returns:
        ``train`` and ``infer`` in images per second, ``memory`` in GB, and the costs of the backbone alone.
    """
    torch.manual_seed(0)
    device = best_device()
    data = synthetic_batch(size, batch)
    counted = costs(name, 800, 1333)
    before = resident()  # libraries and data
    model = fast.convert(mask_rcnn(BackboneConfig(name)))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # averages over all steps, so that an untrained network does not overflow
    steps = Steps(model, device, precision)
    train = _rate(lambda: steps.train(data), batch, rounds)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else most_resident() - before
    # Allow no detections and so no masks: the number of random detections of an untrained network would distort times.
    model.last_head.config = replace(model.last_head.config, score_threshold=1.0)
    evaluated = steps.evaluated()
    infer = _rate(lambda: steps.infer(evaluated, data), batch, rounds)
    return {
        "parameters": counted.parameters,
        "multiply_adds": counted.multiply_adds,
        "train": train,
        "infer": infer,
        "memory": memory / 1e9,
    }


def table(
    names: Sequence[str],
    arguments: Sequence[str],
    seconds: float,
    known: Mapping[str, str],
    write: Callable[[Sequence[str]], None],
) -> list[str]:
    """Measure backbones and return a Markdown table; the row of a backbone that fails shows the reason.

    Args:
        names: the backbones.
        arguments: arguments of ``measure``, without the name.
        seconds: time limit for each backbone.
        known: rows by name that exist already.
        write: a function that is called with all rows after each new one.
    """
    found = dict(known)
    for name in names:
        if name not in known:
            found[name] = f"| `{name}` | {_cells(name, arguments, seconds)} |"
            print(found[name], file=sys.stderr, flush=True)
            write([*HEAD, *(found[name] for name in names if name in found)])
    return [*HEAD, *(found[name] for name in names)]


def _cells(name: str, arguments: Sequence[str], seconds: float) -> str:
    """Measure a backbone in a new process and return the cells of its row."""
    command = [sys.executable, "-m", "detection", "backbones", "measure", name, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return _failed(f"took over {seconds:g} s")
    if done.returncode < 0:  # for example the system's, if memory is short; the process then prints nothing
        return _failed(f"ended by signal {-done.returncode}")
    if done.returncode:
        return _failed((done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    return (
        f"{found['parameters'] / 1e6:.1f} | {found['multiply_adds'] / 1e9:.1f} | "
        f"{found['train']:.3g} | {found['infer']:.3g} | {found['memory']:.2f}"
    )


def _failed(reason: str) -> str:
    """Return the cells of a backbone that could not be measured."""
    return f"not measured: {reason[:120].replace('|', '/')} | | | |"


def measured(path: Path, about: str) -> dict[str, str]:
    """Return the rows of the table in a file by the name of the backbone, without failed rows.

    Raises:
        ValueError: the table does not begin with ``about``, so it is from another command or machine.
    """
    head, tail = around(path)
    page = path.read_text(encoding="utf-8")
    table = page[len(head) + len(BEGIN) : len(page) - len(END) - len(tail)]
    if not " ".join(table.split()).startswith(" ".join(about.split())):
        raise ValueError(f"{path} has no table of the same command and machine to continue; leave out --resume")
    rows = [line for line in table.splitlines() if line.startswith("| `") and "| not measured: " not in line]
    return {row.split("`")[1]: row for row in rows}


def insert(text: str, path: Path) -> None:
    """Replace the text between the marks in a file."""
    head, tail = around(path)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")
    unfinished.replace(path)


def around(path: Path) -> tuple[str, str]:
    """Return the text of a file before and after the marks.

    Raises:
        ValueError: the file does not exist or has no marks.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a file for the table")
    page = path.read_text(encoding="utf-8")
    if BEGIN not in page or END not in page:
        raise ValueError(f"{path} has no place for the table; add the lines {BEGIN} and {END}")
    return page.partition(BEGIN)[0], page.partition(END)[2]


def machine() -> str:
    """Describe the CPU or GPU, the number of threads and PyTorch's version in one line."""
    threads = plural(torch.get_num_threads(), "thread")
    return f"{accelerator_name() or processor_name()}, {threads}, PyTorch {torch.__version__}"


def _rate(step: Callable[[], object], batch: int, rounds: int) -> float:
    """Return images per second, from the median time of a step."""
    seconds = []
    for i in range(1 + rounds):
        start = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if i:
            seconds.append(time.perf_counter() - start)
    return batch / statistics.median(seconds)

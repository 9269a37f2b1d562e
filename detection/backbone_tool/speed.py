"""The table of docs/benchmarks/backbones.md: what Mask R-CNN costs with each backbone, on one machine.

Each backbone is measured in a process of its own, whose peak memory is then its own, and which may fail.
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
from detection.models.build import mask_rcnn
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
"""A choice of timm's."""
NAMES = (*(name for name in available() if "128gf" not in name), *(f"timm/{name}" for name in TIMM))
"""What is measured if no names are given; the largest RegNet takes 8 GB of weights alone."""
HEAD = (
    "| backbone | parameters, M | GFLOPs | training, images/s | inference, images/s | peak memory, GB |",
    "| --- | ---: | ---: | ---: | ---: | ---: |",
)
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
    device = best_device()
    data = synthetic_batch(size, batch)
    counted = costs(name, 800, 1333)
    before = resident()  # libraries and data
    model = fast.convert(mask_rcnn(BackboneConfig(name)))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all steps: an untrained network evaluates without overflow
    steps = Steps(model, device, precision)
    train = _rate(lambda: steps.train(data), batch, rounds)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else most_resident() - before
    # What an untrained network detects by chance would decide about the time: nothing, so that no masks are made.
    model.box_head.config = replace(model.box_head.config, score_threshold=1.0)
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
    """Rows of Markdown; a backbone that fails gets a row that says why.

    Args:
        arguments: of ``measure``, besides the name.
        seconds: after which a backbone is given up.
        known: rows by name that are not measured again.
        write: called with all rows so far after each that is measured.
    """
    found = dict(known)
    for name in names:
        if name not in known:
            found[name] = f"| `{name}` | {_cells(name, arguments, seconds)} |"
            print(found[name], file=sys.stderr, flush=True)
            write([*HEAD, *(found[name] for name in names if name in found)])
    return [*HEAD, *(found[name] for name in names)]


def _cells(name: str, arguments: Sequence[str], seconds: float) -> str:
    """What stands behind a name in its row."""
    command = [sys.executable, "-m", "detection", "backbones", "measure", name, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return _failed(f"took over {seconds:g} s")
    if done.returncode < 0:  # the system's when memory is short, which writes nothing
        return _failed(f"ended by signal {-done.returncode}")
    if done.returncode:
        return _failed((done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    return (
        f"{found['parameters'] / 1e6:.1f} | {found['multiply_adds'] / 1e9:.1f} | "
        f"{found['train']:.3g} | {found['infer']:.3g} | {found['memory']:.2f}"
    )


def _failed(reason: str) -> str:
    """The cells of a backbone without numbers."""
    return f"not measured: {reason[:120].replace('|', '/')} | | | |"


def measured(path: Path, about: str) -> dict[str, str]:
    """Rows of the table in a file by the name of the backbone, without those that failed.

    Raises:
        ValueError: the table is of something else than ``about`` says.
    """
    head, tail = around(path)
    page = path.read_text(encoding="utf-8")
    table = page[len(head) + len(BEGIN) : len(page) - len(END) - len(tail)]
    if not " ".join(table.split()).startswith(" ".join(about.split())):
        raise ValueError(f"{path} holds no table of the same command and machine to go on with; leave out --resume")
    rows = [line for line in table.splitlines() if line.startswith("| `") and "| not measured: " not in line]
    return {row.split("`")[1]: row for row in rows}


def insert(text: str, path: Path) -> None:
    """Put text between the marks of a file, instead of what is there."""
    head, tail = around(path)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")
    unfinished.replace(path)


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
    threads = plural(torch.get_num_threads(), "thread")
    return f"{accelerator_name() or processor_name()}, {threads}, PyTorch {torch.__version__}"


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

"""How much of a step is the exchange of gradients, and how much of an evaluation the gathering and the scoring.

Run ``python tests/end_to_end/scaling.py [ROUNDS [STEPS [BACKBONE [SIDE]]]]``; 2, 20, resnet18 and 256 unless told. In
turn, so that a machine that becomes slower is seen: one process with two images per step, two processes (gloo, one
thread each) with one image each. Within the two, steps that exchange gradients and steps that do not (``no_sync``)
follow one another. Images lie in memory; the loader is not part of this.
"""

import json
import os
import socket
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detection import fast
from detection.coco.annotations import load_annotations
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.data.transforms import Resize
from detection.evaluation.coco import CocoEvaluator
from detection.models.factories import mask_rcnn
from detection.models.rcnn import FasterRCNN
from detection.shapes import write_shapes
from detection.structures import Batch

IMAGES = 16
"""Of the evaluation."""


class Loss(nn.Module):
    """What DDP wants: the loss as the output of forward."""

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return torch.stack(list(self.model.losses(batch).values())).sum()


def steps(model: nn.Module, batch: Batch, count: int, exchange: bool) -> list[float]:
    """Seconds of each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
    seconds = []
    for _ in range(count):
        if dist.get_world_size() > 1:
            dist.barrier()
        began = time.perf_counter()
        if exchange or not isinstance(model, DistributedDataParallel):
            model(batch).backward()
        else:
            with model.no_sync():
                model(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return seconds


def evaluation(model: FasterRCNN, data: CocoDataset, rank: int, world: int) -> dict[str, float]:
    """Seconds of finding, gathering and scoring."""
    evaluator = CocoEvaluator(data.annotations.to_coco(), ("bbox", "segm"))
    began = time.perf_counter()
    with torch.no_grad():
        for number in range(rank, len(data), world):
            batch = collate([data[number]])
            evaluator.add(batch, model(batch.images, batch.sizes))
    found = time.perf_counter()
    if world > 1:
        dist.barrier()  # waiting for the slower rank is not gathering
    ready = time.perf_counter()
    states: list[Any] = [None] * world
    dist.all_gather_object(states, evaluator.state())
    evaluator.reset()
    evaluator.merge(states)
    gathered = time.perf_counter()
    if rank == 0:
        evaluator.evaluate()
    return {"find": found - began, "gather": gathered - ready, "score": time.perf_counter() - gathered}


def work(rank: int, world: int, port: int, folder: str, count: int, backbone: str, side: int) -> None:
    """One rank; the first writes down what it measured."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="(?s).*Grad strides do not match")  # as in training
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.manual_seed(0)
    annotations = load_annotations(Path(folder) / "annotations" / "instances_train.json", need_masks=True)
    data = CocoDataset(annotations, Path(folder) / "train", [Resize(side, 2 * side)], masks=True)
    detector = fast.convert(mask_rcnn(backbone, num_classes=5))
    batch = collate([data[rank + i] for i in range(2 // world)])
    detector.box_head.config = replace(
        detector.box_head.config, score_threshold=0.0
    )  # an untrained detector would find nothing to gather
    model = Loss(detector.to(memory_format=torch.channels_last))
    parallel = DistributedDataParallel(model) if world > 1 else model
    steps(parallel, batch, 3, True)
    with_exchange, without = [], []
    for _ in range(4):
        with_exchange += steps(parallel, batch, count // 4, True)
        without += steps(parallel, batch, count // 4, False)
    told = {
        "step": statistics.median(with_exchange),
        "alone": statistics.median(without),
        "bytes": 4 * sum(p.numel() for p in model.parameters() if p.requires_grad),
        "evaluation": evaluation(detector.eval(), data, rank, world),
    }
    if rank == 0:
        (Path(folder) / f"told_{world}.json").write_text(json.dumps(told))
    dist.barrier()
    dist.destroy_process_group()


def measure(world: int, folder: Path, count: int, backbone: str, side: int) -> dict[str, Any]:
    """Start so many processes; what the first measured."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    mp.spawn(work, (world, port, str(folder), count, backbone, side), nprocs=world)
    return dict(json.loads((folder / f"told_{world}.json").read_text()))


def main() -> None:
    """Measure in turn, and print a line for each."""
    rounds, count, backbone, side = (*sys.argv[1:], *("2", "20", "resnet18", "256")[len(sys.argv) - 1 :])
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = write_shapes(Path(name), train=IMAGES, val=1, size=(int(side), int(side)))
        for number in range(1, int(rounds) + 1):
            for world in (1, 2):
                told = measure(world, folder, int(count), backbone, int(side))
                part = told["evaluation"]
                share = 100 * (part["gather"] + part["score"]) / sum(part.values())
                line = f"round {number}, {world} process(es): {2 / told['step']:.2f} images/s"
                if world > 1:
                    exchange = told["step"] - told["alone"]
                    line += (
                        f", step {told['step']:.3f} s, without exchange {told['alone']:.3f} s: "
                        f"{100 * exchange / told['step']:.1f}% for {told['bytes'] / 1e6:.1f} MB of gradients"
                    )
                print(
                    f"{line}; evaluation of {IMAGES} images: {part['find']:.2f} s, gathering {part['gather']:.4f} s, "
                    f"scoring {part['score']:.3f} s: {share:.1f}%",
                    flush=True,
                )


if __name__ == "__main__":
    main()

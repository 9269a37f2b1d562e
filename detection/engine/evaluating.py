"""An evaluation of one split: what it collects from batches, and the numbers, lines and files that it gives."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.percent import percent
from detection.evaluation.results import write_results
from detection.structures import Batch, Detections
from detection.wording import plural

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""Columns of the printed table, beside recall at the largest limit; all twelve numbers are logged."""
RAISE_LIMIT = "--data.max_detections {most}, with a head whose setting detections is as large"
"""The options that score more detections of an image."""


class Evaluation:
    """The detections and losses of a split; used again for each of its evaluations.

    Args:
        split: its name, as metrics begin with it.
        evaluator: collects and scores the detections.
    """

    def __init__(self, split: str, evaluator: CocoEvaluator) -> None:
        self.split, self.evaluator = split, evaluator
        self._losses: list[tuple[int, Tensor]] = []  # of each batch: how many images, and its losses
        self._loss_names: list[str] = []
        self._reported_limits = False

    def start(self) -> None:
        """Forget the batches of the evaluation before."""
        self._losses = []
        self.evaluator.reset()

    def add(self, batch: Batch, detections: Detections, losses: Mapping[str, Tensor] | None = None) -> None:
        """Take in a batch; the device is not waited for.

        Args:
            losses: by name; None for images without annotations.
        """
        if losses is not None:
            self._loss_names = list(losses)
            self._losses.append((len(batch.images), torch.stack(list(losses.values()))))
        self.evaluator.add(batch, detections)

    def gather(self) -> dict[str, float]:
        """Bring the detections of all ranks together, in one exchange; all ranks must call it.

        Returns:
            The mean of each loss over the images of all ranks.
        """
        sums: list[float] = []
        if self._losses:
            images = torch.tensor([[images] for images, _ in self._losses], dtype=torch.float64)
            means = torch.stack([losses for _, losses in self._losses]).cpu().double()  # Apple's GPUs have no float64
            sums = torch.cat([means * images, images], dim=1).sum(dim=0).tolist()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            states: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(states, (self.evaluator.state(), sums))
            self.evaluator.reset()
            self.evaluator.merge(state for state, _ in states)
            sums = [sum(values) for values in zip(*(part for _, part in states if part), strict=True)]
        return dict(zip(self._loss_names, [value / sums[-1] for value in sums[:-1]], strict=True))

    def score(self, losses: Mapping[str, float]) -> dict[str, float]:
        """The metrics by name, without the split; after :meth:`gather`, whose means they include."""
        metrics = {"loss": sum(losses.values())} | dict(losses) if losses else {}
        metrics |= self.evaluator.evaluate()
        both = (metrics.get(f"{iou_type}/AP", math.nan) for iou_type in ("segm", "bbox"))
        metrics["AP"] = next((ap for ap in both if not math.isnan(ap)), math.nan)
        return metrics

    def report(self, metrics: Mapping[str, float], precision: str) -> Iterator[str]:
        """The lines to print: a table, images with more objects than are scored (once), NaN or infinite detections.

        Args:
            precision: as the table names it.
        """
        yield table(metrics, self.split, precision)
        if not self._reported_limits:
            self._reported_limits = True
            for iou_type in self.evaluator.iou_types:
                yield from self.evaluator.beyond_limit(iou_type, RAISE_LIMIT)
        if self.evaluator.dropped:
            yield f"Not scored, as not finite: {plural(self.evaluator.dropped, 'detection')}"

    def write_results(self, folder: Path) -> list[Path]:
        """Write COCO's result files, one for each of boxes and masks; their paths."""
        paths = {iou_type: folder / f"results_{iou_type}.json" for iou_type in self.evaluator.iou_types}
        for iou_type, path in paths.items():
            write_results(path, self.evaluator.results(iou_type))
        return list(paths.values())


def table(metrics: Mapping[str, float], split: str, precision: str) -> str:
    """The important numbers of an evaluation, in percent, and the precision it was computed in."""
    recall = [name.partition("/")[2] for name in metrics if re.fullmatch(r"\w+/AR\d+", name)]
    columns = (*COLUMNS, *sorted(recall, key=lambda name: int(name[2:]))[-1:])
    rows = [f"{split}: COCO numbers in percent, computed in {precision}"]
    rows.append(" " * 8 + "".join(f"{name:>7s}" for name in columns))
    for iou_type in ("bbox", "segm"):
        if f"{iou_type}/AP" in metrics:
            numbers = (percent(metrics[f"{iou_type}/{name}"], "n/a") for name in columns)
            rows.append(f"{iou_type:8s}" + "".join(f"{number:>7s}" for number in numbers))
    losses = [f"{name} {value:.3f}" for name, value in metrics.items() if name.startswith("loss")]
    return "\n".join([*rows, *([" ".join(losses)] if losses else [])])

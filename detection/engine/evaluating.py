"""Evaluation of one split: collect detections and losses of batches, then compute metrics, tables and result files."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from detection.checkpoint_files import replacing
from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.maps import MapEvaluator
from detection.evaluation.percent import percent
from detection.evaluation.ranks import states_of_ranks
from detection.evaluation.results import write_results
from detection.structures import Batch, Detections
from detection.wording import plural

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""Columns of the printed table, before the recall at the largest limit; all twelve COCO metrics are logged."""
RAISE_LIMIT = "--data.max_detections {most}, with a head whose setting detections is as large"
"""The options that score more detections of an image."""


class Evaluation:
    """Collect the detections and losses of a split, and score them; one object serves all evaluations of the split.

    Args:
        split: name of the split, with which the names of metrics begin.
        evaluator: object that collects and scores the detections; None for a Semantic FPN.
        maps: object that collects and scores semantic maps and segments; None without a semantic head.
    """

    def __init__(self, split: str, evaluator: CocoEvaluator | None, maps: MapEvaluator | None = None) -> None:
        self.split, self.evaluator, self.maps = split, evaluator, maps
        self._parts: list[CocoEvaluator | MapEvaluator] = [part for part in (evaluator, maps) if part is not None]
        self._losses: list[tuple[int, Tensor]] = []  # number of images and losses of each batch
        self._loss_names: list[str] = []
        self._reported_limits = False

    def start(self) -> None:
        """Discard the batches of the previous evaluation."""
        self._losses = []
        for part in self._parts:
            part.reset()

    def add(self, batch: Batch, detections: Detections, losses: Mapping[str, Tensor] | None = None) -> None:
        """Add a batch; this does not synchronise with the device.

        Args:
            losses: losses by name; None for images without annotations.
        """
        if losses is not None:
            self._loss_names = list(losses)
            self._losses.append((len(batch.images), torch.stack(list(losses.values()))))
        for part in self._parts:
            part.add(batch, detections)

    def gather(self) -> dict[str, float]:
        """Gather the detections of all ranks on each rank, in one exchange; all ranks must call this method.

        Returns:
            The mean of each loss over the images of all ranks.
        """
        sums: list[float] = []
        if self._losses:
            images = torch.tensor([[images] for images, _ in self._losses], dtype=torch.float64)
            means = torch.stack([losses for _, losses in self._losses]).cpu().double()  # Apple's GPUs have no float64
            sums = torch.cat([means * images, images], dim=1).sum(dim=0).tolist()
        states = states_of_ranks(lambda: ([part.state() for part in self._parts], sums))
        if states is not None:
            for number, part in enumerate(self._parts):
                part.reset()
                part.merge(collected[number] for collected, _ in states)
            sums = [sum(values) for values in zip(*(part for _, part in states if part), strict=True)]
        return dict(zip(self._loss_names, [value / sums[-1] for value in sums[:-1]], strict=True))

    def score(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics by name, without the name of the split; call :meth:`gather` before.

        Args:
            losses: mean losses that :meth:`gather` returned; the metrics include them.
        """
        metrics = {"loss": sum(losses.values())} | dict(losses) if losses else {}
        for part in self._parts:
            metrics |= part.evaluate()
        if self.evaluator is not None:
            every = (metrics.get(f"{iou_type}/AP", math.nan) for iou_type in ("keypoints", "segm", "bbox"))
            metrics["AP"] = next((ap for ap in every if not math.isnan(ap)), math.nan)
        return metrics

    def report(self, metrics: Mapping[str, float], precision: str) -> Iterator[str]:
        """Yield lines to print: a table, images above the limit of detections (once), dropped detections.

        Args:
            precision: name of the precision, for the table.
        """
        yield table(metrics, self.split, precision)
        if self.evaluator is None:
            return
        if not self._reported_limits:
            self._reported_limits = True
            for iou_type in self.evaluator.iou_types:
                yield from self.evaluator.beyond_limit(iou_type, RAISE_LIMIT)
        if self.evaluator.dropped:
            yield f"Not scored, since NaN or infinite: {plural(self.evaluator.dropped, 'detection')}"

    def write_classes(self, folder: Path) -> None:
        """Write the scores of each semantic and panoptic class as CSV, if there are semantic maps."""
        for kind, text in ({} if self.maps is None else self.maps.tables()).items():
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / f"{self.split}_{kind}.csv") as file:
                file.write(text.encode())

    def write_results(self, folder: Path) -> list[Path]:
        """Write COCO result files, one each for boxes, masks and keypoints, and return their paths."""
        if self.evaluator is None:
            return []
        paths = {iou_type: folder / f"results_{iou_type}.json" for iou_type in self.evaluator.iou_types}
        for iou_type, path in paths.items():
            write_results(path, self.evaluator.results(iou_type))
        return list(paths.values())


def table(metrics: Mapping[str, float], split: str, precision: str) -> str:
    """Return a table of the main metrics of an evaluation in percent, with the precision of the computation."""
    recall = [name.partition("/")[2] for name in metrics if re.fullmatch(r"\w+/AR\d+", name)]
    columns = (*COLUMNS, *sorted(recall, key=lambda name: int(name[2:]))[-1:])
    objects = any(f"{iou_type}/AP" in metrics for iou_type in ("bbox", "segm"))
    rows = [f"{split}: {'COCO ' if objects else ''}metrics in percent, computed in {precision}"]
    rows += [" " * 8 + "".join(f"{name:>7s}" for name in columns)] if objects else []
    for iou_type in ("bbox", "segm"):
        if f"{iou_type}/AP" in metrics:
            numbers = (percent(metrics[f"{iou_type}/{name}"], "n/a") for name in columns)
            rows.append(f"{iou_type:8s}" + "".join(f"{number:>7s}" for number in numbers))
    if "keypoints/AP" in metrics:
        columns = ("AP", "AP50", "AP75", "APm", "APl", "AR")
        rows.append(" " * 11 + "".join(f"{name:>7s}" for name in columns))
        numbers = (percent(metrics[f"keypoints/{name}"], "n/a") for name in columns)
        rows.append(f"{'keypoints':11s}" + "".join(f"{number:>7s}" for number in numbers))
    for prefix in ("semantic/", "panoptic/"):
        own = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
        rows += [", ".join(f"{name} {percent(value, 'n/a')}" for name, value in own.items())] if own else []
    losses = [f"{name} {value:.3f}" for name, value in metrics.items() if name.startswith("loss")]
    return "\n".join([*rows, *([" ".join(losses)] if losses else [])])

"""Heads of one-stage detectors for exporters: every level has some cells more, all outside the image.

So no level has fewer cells than candidates, and the plain code takes the same way for every image.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.models.anchors import CanvasAnchors
from detection.models.dense_head import DenseHead
from detection.models.fcos import FCOSHead
from detection.models.one_stage import OneStage
from detection.models.retinanet import RetinaNetHead
from detection.models.task_aligned import TaskAlignedHead

FAR = 2**30
"""Row and column of the further cells, in pixels: outside every image."""


class _Padded(DenseHead):
    def forward(self, features: Sequence[Tensor]) -> Any:
        more = self.config.candidates
        return tuple([self._longer(x, more) for x in levels] for levels in super().forward(features))

    def canvas_anchors(self, features: Sequence[Tensor], canvas: tuple[int, int]) -> CanvasAnchors:
        found, more = super().canvas_anchors(features, canvas), self.config.candidates
        per_cell = self.anchors.per_cell
        cells = [length // per_cell for length in found.lengths]
        boxes = [F.pad(x, (0, 0, 0, more * per_cell)) for x in found.boxes.split(found.lengths)]
        rows, columns = (
            torch.cat([F.pad(x, (0, more), value=FAR) for x in places.split(cells)])
            for places in (found.rows, found.columns)
        )
        lengths = tuple(length + more * per_cell for length in found.lengths)
        return CanvasAnchors(torch.cat(boxes), rows, columns, lengths, found.grids)

    def _longer(self, x: Tensor, cells: int) -> Tensor:
        """Append predictions of further cells to those of a level, (B, N_l, ...)."""
        return F.pad(x, (*(0, 0) * (x.dim() - 2), 0, cells * self.anchors.per_cell))


class ExportedRetinaNet(_Padded, RetinaNetHead):
    """:class:`~detection.models.retinanet.RetinaNetHead` at test time."""


class ExportedFCOS(_Padded, FCOSHead):
    """:class:`~detection.models.fcos.FCOSHead` at test time."""


class ExportedTaskAligned(_Padded, TaskAlignedHead):
    """:class:`~detection.models.task_aligned.TaskAlignedHead` at test time."""

    def expected(self, distances: Tensor) -> Tensor:
        """Return the mean of each distribution, by a product with a matrix.

        OpenVINO 2026.4 cannot compile a product with a vector that a factor follows.
        """
        steps = torch.arange(distances.shape[-1], dtype=distances.dtype, device=distances.device)
        return (distances.softmax(dim=-1) @ steps[:, None]).squeeze(-1)


class Candidates(OneStage):
    """A one-stage detector that returns boxes and scores before the NMS."""

    def select(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        label = scores.argmax(dim=2)
        return boxes[:, :, None], scores, label, label

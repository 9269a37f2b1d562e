"""A keypoint head that reads the table of the pyramid, and computes only the RoIs that count.

B images   S RoIs per image   R RoIs to compute   N keypoints   m heatmap side.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.fast.levels import levels_of
from detection.fast.roi_align import pool
from detection.models.keypoint_head import KeypointHead
from detection.structures import IGNORE


class FastKeypointHead(KeypointHead):
    """:class:`~detection.models.keypoint_head.KeypointHead` that skips unused RoIs on a CPU."""

    def forward(self, features: Sequence[Tensor], rois: Tensor, used: Tensor) -> Tensor:
        slots = slots_of(used)
        heatmaps = self._of(features, rois, slots)
        if len(slots) < used.numel():
            heatmaps = heatmaps.new_zeros(used.numel(), *heatmaps.shape[1:]).index_copy(0, slots, heatmaps)
        return heatmaps.unflatten(0, used.shape)

    def cross_entropy(self, features: Sequence[Tensor], rois: Tensor, cells: Tensor) -> Tensor:
        if cells.device.type != "cpu":
            return super().cross_entropy(features, rois, cells)
        slots = slots_of((cells != IGNORE).any(dim=2))
        heatmaps, right = self._of(features, rois, slots), cells.flatten(0, 1)[slots]
        return F.cross_entropy(heatmaps.flatten(2).flatten(0, 1), right.flatten(), ignore_index=IGNORE, reduction="sum")

    def _of(self, features: Sequence[Tensor], rois: Tensor, slots: Tensor) -> Tensor:
        """Return the heatmaps (R, N, m, m) of the RoIs with these numbers, (R,), of (B * S, 4)."""
        config, boxes, image = self.config, rois.flatten(0, 1)[slots], slots // rois.shape[1]
        x = pool(
            levels_of(features), self.strides, boxes, image, config.resolution, config.sampling_ratio, config.aligned
        )
        return self.upsampled(self.convs(x))


def slots_of(used: Tensor) -> Tensor:
    """Return the numbers of the RoIs to compute; a GPU computes all of them, as a selection would synchronise."""
    if used.device.type == "cpu":
        return used.flatten().nonzero()[:, 0]
    return torch.arange(used.numel(), device=used.device)

"""PointRend's mask head that computes only the RoIs that count."""

from torch import Tensor

from detection.fast.keypoint_head import slots_of
from detection.models.point_head import PointHead


class FastPointHead(PointHead):
    """:class:`~detection.models.point_head.PointHead` that skips unused RoIs on a CPU."""

    def slots(self, used: Tensor) -> Tensor:
        return slots_of(used)

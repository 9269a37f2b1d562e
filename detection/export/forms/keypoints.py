"""The keypoint head for exporters: RoIAlign is one operator of the program, and so is the search in the heatmaps."""

from collections.abc import Sequence

from torch import Tensor

from detection.export.forms.regions import pool
from detection.models.keypoint_head import KeypointHead


class ExportedKeypointHead(KeypointHead):
    """:class:`~detection.models.keypoint_head.KeypointHead` at test time."""

    def forward(self, features: Sequence[Tensor], rois: Tensor, used: Tensor) -> Tensor:
        x = pool(self, features, rois)
        return self.upsampled(self.convs(x.flatten(0, 1))).unflatten(0, rois.shape[:2])

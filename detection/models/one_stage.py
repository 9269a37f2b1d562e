"""One-stage detectors: classes and boxes at every cell of the pyramid, without proposals.

images -> backbone C3..C5 -> pyramid P3..P7 -> head -> boxes, masks.
"""

import torch
from torch import Tensor

from backbones.base import Backbone
from detection.models.dense_head import DenseHead
from detection.models.detector import Detector
from detection.models.fpn import FPN, FPNConfig
from detection.ops.selection import select_by
from detection.structures import Batch, Detections

PYRAMID = FPNConfig(extra="conv", finest=3)
"""P3..P7, the pyramid of one-stage detectors."""


class OneStage(Detector):
    """A pyramid and a :class:`DenseHead` on it."""

    last = "head"
    head: DenseHead

    def __init__(self, backbone: Backbone, fpn: FPN, head: DenseHead) -> None:
        super().__init__(backbone, fpn)
        self.head = head

    def losses(
        self, batch: Batch, features: list[Tensor] | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of the head, which draws no samples; see :meth:`Detector.losses`.

        Raises:
            ValueError: a batch without targets, or with labels that the detector does not have.
        """
        self.check_labels(batch.targets)
        if any(getattr(batch.targets, need) is None for need in self.head.needs):
            raise ValueError(self.head.missing)
        features = self.features(batch.images, batch.sizes) if features is None else features
        return self.head.losses(features, batch)

    def forward(self, images: Tensor, sizes: Tensor, features: list[Tensor] | None = None) -> Detections:
        """Return detections in canvas pixels; see :meth:`Detector.forward`."""
        features = self.features(images, sizes) if features is None else features
        return self.head.detect(features, (images.shape[-2], images.shape[-1]), sizes, self.select)

    def select(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return boxes, scores, labels and candidates of the detections, by the settings of the head."""
        return select_by(self.head.config, boxes[:, :, None], scores)

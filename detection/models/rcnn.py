"""Faster R-CNN and Mask R-CNN, complete: as in the figures of the papers.

images -> backbone C2..C5 -> pyramid P2..P6 -> proposals -> boxes -> masks.
Ren et al. 2015 (Faster R-CNN), He et al. 2017 (Mask R-CNN), Lin et al. 2017 (FPN).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from detection.models.detector import Detector
from detection.structures import Batch, Detections

if TYPE_CHECKING:
    from detection.models.box_head import BoxHead
    from detection.models.fpn import FPN
    from detection.models.mask_head import MaskHead
    from detection.models.rpn import RPN


class TwoStage(Detector):
    """A two-stage detector: an RPN, a box head, and optional region heads that add to each detection.

    A region head has ``losses(features, samples, targets)`` and ``detect(features, detections)``, which sets its field
    of the detections. Its ``needs`` lists the fields of the targets that its loss needs.
    """

    def __init__(
        self,
        backbone: Backbone,
        fpn: "FPN",
        rpn: "RPN",
        box_head: "BoxHead",
        region_heads: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(backbone, fpn)
        self.rpn, self.box_head = rpn, box_head
        for name, head in (region_heads or {}).items():
            self.add_module(name, head)
        self.region_names = tuple(region_heads or {})

    @property
    def region_heads(self) -> list[nn.Module]:
        """The region heads, in order."""
        return [self.get_submodule(name) for name in self.region_names]

    def losses(
        self, batch: Batch, features: list[Tensor] | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of both stages and of the region heads; see :meth:`Detector.losses`.

        Raises:
            ValueError: the batch lacks targets that a head needs, or has labels that the detector does not have.
        """
        self.check_targets(batch)
        assert batch.targets is not None
        features = self.features(batch.images, batch.sizes) if features is None else features
        losses, proposals = self.rpn.losses(features, batch, generator)
        samples = self.box_head.sample(proposals, batch.targets, generator)
        losses |= self.box_head.losses(features, samples, batch.targets)
        for head in self.region_heads:
            losses |= head.losses(features, samples, batch.targets)  # type: ignore[operator]
        return losses

    def forward(self, images: Tensor, sizes: Tensor, features: list[Tensor] | None = None) -> Detections:
        """Return detections in canvas pixels; see :meth:`Detector.forward`."""
        features = self.features(images, sizes) if features is None else features
        proposals = self.rpn.propose(features, (images.shape[-2], images.shape[-1]), sizes)
        detections = self.box_head.detect(features, proposals, sizes)
        for head in self.region_heads:
            detections = head.detect(features, detections)  # type: ignore[operator]
        return detections

    def check_targets(self, batch: Batch) -> None:
        """Raise a ValueError if this detector cannot train on a batch."""
        self.check_labels(batch.targets)
        for head in self.region_heads:
            if any(getattr(batch.targets, need) is None for need in head.needs):  # type: ignore[union-attr]
                raise ValueError(head.missing)


class FasterRCNN(TwoStage):
    """A two-stage detector of boxes."""

    def __init__(self, backbone: Backbone, fpn: "FPN", rpn: "RPN", box_head: "BoxHead") -> None:
        super().__init__(backbone, fpn, rpn, box_head)


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask for each detection."""

    mask_head: "MaskHead"

    def __init__(self, backbone: Backbone, fpn: "FPN", rpn: "RPN", box_head: "BoxHead", mask_head: "MaskHead") -> None:
        TwoStage.__init__(self, backbone, fpn, rpn, box_head, {"mask_head": mask_head})

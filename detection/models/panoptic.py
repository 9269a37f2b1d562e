"""Semantic FPN, which labels every pixel, and Panoptic FPN, which also finds the objects.

images -> backbone C2..C5 -> pyramid P2..P6 -> semantic head; with the heads of Mask R-CNN -> segments.
Kirillov et al. 2019 (Panoptic feature pyramid networks).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backbones.base import Backbone
from detection.categories import Categories
from detection.models.detector import Detector
from detection.models.rcnn import MaskRCNN, TwoStage
from detection.models.semantic_head import SemanticHead, SemanticHeadConfig, check_maps
from detection.structures import IGNORE, Batch, Detections, Targets

if TYPE_CHECKING:
    from detection.models.box_head import BoxHead
    from detection.models.fpn import FPN
    from detection.models.mask_head import MaskHead
    from detection.models.rpn import RPN

THINGS = "things"
"""Name of the first semantic class of a Panoptic FPN: all objects, whatever their class."""
BACKGROUND = "background"
"""Name of the stuff class where the data have no other."""


def semantic_categories(config: SemanticHeadConfig) -> Categories:
    """Return the semantic classes of a Panoptic FPN with this config: all objects, then stuff."""
    names = config.stuff or (BACKGROUND,)
    return Categories((THINGS, *names), (0, *(config.stuff_ids or range(1, 1 + len(names)))))


class WithSemanticHead(Detector):
    """What detectors with a semantic head have in common."""

    semantic_head: SemanticHead

    def check_semantic(self, targets: Targets | None) -> None:
        """Raise a ValueError if the semantic head cannot learn from targets."""
        check_maps(targets, self.semantic_head.num_classes)

    @property
    def semantic_categories(self) -> Categories | None:
        """Names and original IDs of the semantic classes, if known."""
        raise NotImplementedError


class SemanticFPN(WithSemanticHead):
    """A pyramid and a semantic head; its detections hold no objects."""

    last = "semantic_head"

    def __init__(self, backbone: Backbone, fpn: "FPN", semantic_head: SemanticHead) -> None:
        super().__init__(backbone, fpn)
        self.semantic_head = semantic_head

    @property
    def semantic_categories(self) -> Categories | None:
        return self.categories

    def losses(
        self, batch: Batch, features: list[Tensor] | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the loss of the head, which draws no samples; see :meth:`Detector.losses`.

        Raises:
            ValueError: a batch without semantic maps, or with labels that the head does not have.
        """
        self.check_semantic(batch.targets)
        assert batch.targets is not None
        features = self.features(batch.images, batch.sizes) if features is None else features
        return self.semantic_head.losses(features, batch.targets)

    def forward(self, images: Tensor, sizes: Tensor, features: list[Tensor] | None = None) -> Detections:
        """Return semantic logits, and no objects (D is 0); see :meth:`Detector.forward`."""
        features = self.features(images, sizes) if features is None else features
        logits = self.semantic_head(features)
        none = logits.new_zeros((logits.shape[0], 0), dtype=torch.float32)
        return Detections(none[..., None].expand(-1, -1, 4), none, none.long() + IGNORE, semantic=logits)


class PanopticFPN(WithSemanticHead, MaskRCNN):
    """Mask R-CNN and a semantic head of stuff classes; the first semantic class stands for all objects."""

    def __init__(
        self,
        backbone: Backbone,
        fpn: "FPN",
        rpn: "RPN",
        box_head: "BoxHead",
        mask_head: "MaskHead",
        semantic_head: SemanticHead,
    ) -> None:
        TwoStage.__init__(self, backbone, fpn, rpn, box_head, {"mask_head": mask_head})
        self.semantic_head = semantic_head

    @property
    def semantic_categories(self) -> Categories:
        return semantic_categories(self.semantic_head.config)

    def losses(
        self, batch: Batch, features: list[Tensor] | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of Mask R-CNN and of the semantic head; see :meth:`Detector.losses`.

        Raises:
            ValueError: as for :class:`TwoStage`, or a batch without semantic maps.
        """
        self.check_semantic(batch.targets)
        assert batch.targets is not None
        features = self.features(batch.images, batch.sizes) if features is None else features
        losses = super().losses(batch, features, generator)
        return losses | self.semantic_head.losses(features, batch.targets)

    def forward(self, images: Tensor, sizes: Tensor, features: list[Tensor] | None = None) -> Detections:
        """Return objects and semantic logits; see :meth:`Detector.forward`."""
        features = self.features(images, sizes) if features is None else features
        detections = super().forward(images, sizes, features)
        return detections._replace(semantic=self.semantic_head(features))

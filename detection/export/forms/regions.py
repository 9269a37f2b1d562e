"""Heads on RoIs for exporters: RoIAlign is one operator of the program."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from detection.export.align import align_regions
from detection.models.box_head import BoxHead
from detection.models.mask_head import MaskHead
from detection.models.object_masks import ObjectMasks
from detection.structures import Detections, Proposals


def pool(head: Any, features: Sequence[Tensor], rois: Tensor) -> Tensor:
    """Return the features of RoIs, (B, S, C, r, r), for a head with strides and a config."""
    config, strides = head.config, list(head.strides)
    ratio, aligned = config.sampling_ratio, config.aligned
    return align_regions(list(features[: len(strides)]), strides, rois, config.resolution, ratio, aligned)


class ExportedBoxHead(BoxHead):
    """:class:`~detection.models.box_head.BoxHead` at test time."""

    def pool(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        return pool(self, features, rois)


class CandidateBoxHead(ExportedBoxHead):
    """A box head that returns boxes and scores before the NMS."""

    def select(self, scores: Tensor, boxes: Tensor, proposals: Proposals) -> Detections:
        unusable = self.is_small(boxes) | proposals.logits.isneginf()[..., None]
        scores = scores[..., : self.num_classes].masked_fill(unusable, 0)
        return Detections(boxes, scores, scores.argmax(dim=2))


class ExportedMaskHead(MaskHead):
    """:class:`~detection.models.mask_head.MaskHead` at test time."""

    def pool(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        return pool(self, features, rois)


class ExportedObjectMasks(ObjectMasks):
    """:class:`~detection.models.object_masks.ObjectMasks` at test time."""

    def pool(self, features: Tensor, boxes: Tensor) -> Tensor:
        return align_regions([features], [self.stride], boxes, self.config.side, 1, True)

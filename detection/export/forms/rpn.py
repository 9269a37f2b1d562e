"""The RPN for exporters: a constant number of candidates per level, and lists that are always full."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.models.anchors import CanvasAnchors
from detection.models.rpn import RPN
from detection.ops import boxes as box_ops
from detection.ops.nms import nms
from detection.structures import Proposals


class ExportedRPN(RPN):
    """:class:`~detection.models.rpn.RPN` at test time."""

    def select(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: CanvasAnchors,
        sizes: Tensor,
        train: bool = False,
    ) -> Proposals:
        config = self.config
        outside = (~anchors.inside(sizes)).split(anchors.lengths, dim=1)
        boxes = anchors.boxes.split(anchors.lengths)
        best = [top_of(*level, config.pre_nms_test) for level in zip(logits, deltas, boxes, outside, strict=True)]
        score, delta, anchor = (torch.stack(parts, dim=1) for parts in zip(*best, strict=True))
        box = box_ops.decode(delta, anchor, clamp_both=config.clamp_both)
        box = box_ops.clip(box.flatten(1, 2), sizes).view_as(box)
        side = (box[..., 2:] - box[..., :2]).amin(dim=-1)
        score = score.masked_fill((side < config.min_size) | (side <= 0) | (score < self.least_logit), -torch.inf)
        score, order = score.topk(score.shape[-1])  # ONNX sorts by TopK, which keeps the order of equal scores
        box = box.gather(2, order[..., None].expand_as(box))
        keep = nms(box.flatten(0, 1), score.flatten(0, 1), config.nms_threshold).view_as(score)
        score, box = score.masked_fill(~keep, -torch.inf).flatten(1), box.flatten(1, 2)
        short = max(0, config.proposals_test - score.shape[1])
        top, index = F.pad(score, (0, short), value=-torch.inf).topk(config.proposals_test)
        box = F.pad(box, (0, 0, 0, short)).gather(1, index[..., None].expand(-1, -1, 4))
        return Proposals(box.masked_fill(top.isneginf()[..., None], 0), top)


def top_of(logits: Tensor, deltas: Tensor, anchors: Tensor, outside: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best ``num`` of a level by falling logit; -inf where the level has fewer.

    Args:
        logits: (B, N_l).
        deltas: (B, N_l, 4).
        anchors: (N_l, 4).
        outside: (B, N_l) bool.
    """
    top, index = F.pad(logits.masked_fill(outside, -torch.inf), (0, num), value=-torch.inf).topk(num)
    index = index.clamp(max=logits.shape[1] - 1)
    return top, deltas.gather(1, index[..., None].expand(-1, -1, 4)), anchors[index]

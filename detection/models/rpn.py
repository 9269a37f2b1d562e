"""The region proposal network: finds boxes that may contain an object of any class.

B images   L levels   A anchors per cell   N anchors of all levels   P proposals.
Ren et al. 2015 (Faster R-CNN), section 3.1; over a pyramid: Lin et al. 2017 (FPN), section 4.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.models.anchors import AnchorConfig, Anchors, CanvasAnchors
from detection.ops import boxes as box_ops
from detection.ops.matching import match, sample
from detection.ops.nms import nms
from detection.structures import IGNORE, Batch, Proposals, Targets


@dataclass(frozen=True)
class RPNConfig:
    """Anchors, training samples and proposals of the RPN."""

    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    """Sizes and aspect ratios of the anchors."""
    convs: int = 1
    """Number of shared 3x3 convolutions before objectness and deltas."""
    samples: int = 256
    """Anchors per image in the loss (section 3.1.3)."""
    positive_fraction: float = 0.5
    """Largest fraction of positive anchors."""
    low: float = 0.3
    """An anchor whose best IoU is below this is negative."""
    high: float = 0.7
    """An anchor whose best IoU is at least this is positive; between ``low`` and ``high``, the loss ignores it."""
    beta: float = 0.0
    """Error at which the box loss changes from squared to linear; 0: plain L1 (detectron2); torchvision uses 1/9."""
    pre_nms_train: int = 2000
    """Best anchors per level before the NMS, in training."""
    pre_nms_test: int = 1000
    """Best anchors per level before the NMS, at test time."""
    proposals_train: int = 1000
    """Proposals per image after the NMS, in training."""
    proposals_test: int = 1000
    """Proposals per image after the NMS, at test time."""
    nms_threshold: float = 0.7
    """Of two proposals of one level with a larger IoU, keep only the better one."""
    min_size: float = 1e-3
    """Smallest side of a proposal, in pixels; proposals without area are always dropped."""
    score_threshold: float = 0.0
    """Smallest objectness of a proposal, as a probability."""
    clamp_both: bool = False
    """Limit how far an anchor can shrink, not only how far it can grow, as mmdetection does."""


class RPN(nn.Module):
    """Predict objectness and deltas of every anchor of a pyramid; compute proposals and losses from them.

    Raises:
        ValueError: ``score_threshold`` is below 0, or 1 or more.
    """

    loss_names = ("loss_rpn_cls", "loss_rpn_loc")

    def __init__(self, channels: int, strides: Sequence[int], config: RPNConfig) -> None:
        super().__init__()
        threshold = config.score_threshold
        if not 0 <= threshold < 1:
            raise ValueError(f"model.rpn.score_threshold is {threshold}; it must be at least 0 and below 1")
        self.config, self.anchors = config, Anchors(strides, config.anchors)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.convs))
        self.objectness = nn.Conv2d(channels, self.anchors.per_cell, 1)
        self.deltas = nn.Conv2d(channels, self.anchors.per_cell * 4, 1)
        for conv in [*self.convs, self.objectness, self.deltas]:
            nn.init.normal_(conv.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        # The threshold as a logit: a sigmoid could round two logits to the same score.
        self.least_logit = -math.inf if threshold == 0 else math.log(threshold / (1 - threshold))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return objectness logits (B, N_l) and deltas (B, N_l, 4) per level, both float32."""
        logits, deltas = [], []
        for x in map(self.hidden, features):
            logits.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1).float())
            deltas.append(self.deltas(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4).float())
        return logits, deltas

    def hidden(self, x: Tensor) -> Tensor:
        """Apply the shared convolutions to a level (B, C, H_l, W_l)."""
        for conv in self.convs:
            x = conv(x).relu()
        return x

    def losses(
        self, features: list[Tensor], batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], Proposals]:
        """Return ``loss_rpn_cls`` and ``loss_rpn_loc`` (equation 1), and the proposals for the second stage."""
        logits, deltas = self(features)
        anchors = self.canvas_anchors(features, (batch.images.shape[-2], batch.images.shape[-1]))
        index, label, truth = self.sample(batch, anchors, generator)
        every_logit, every_delta = torch.cat(logits, dim=1), torch.cat(deltas, dim=1)
        some = every_logit.gather(1, index), every_delta.gather(1, index[..., None].expand(-1, -1, 4))
        losses = self.sampled_losses(*some, anchors.boxes[index], label, truth)
        return losses, self.select(logits, deltas, anchors, batch.sizes, train=True)

    def propose(self, features: list[Tensor], canvas: tuple[int, int], sizes: Tensor) -> Proposals:
        """Return the proposals at test time; ``canvas`` is (height, width), ``sizes`` (B, 2) those of the images."""
        logits, deltas = self(features)
        return self.select(logits, deltas, self.canvas_anchors(features, canvas), sizes)

    def canvas_anchors(self, features: Sequence[Tensor], canvas: tuple[int, int]) -> CanvasAnchors:
        """Return the anchors for a pyramid."""
        grids = tuple((x.shape[2], x.shape[3]) for x in features)
        return self.anchors(canvas, grids, features[0].device)

    @torch.no_grad()
    def sample(
        self, batch: Batch, anchors: CanvasAnchors, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the anchors for the loss (section 3.1.3).

        Returns:
            index: (B, S) int64 into N.
            label: (B, S) int64: 1 positive, 0 negative, IGNORE padding.
            truth: (B, S, 4), the matched ground truth.
        """
        assert batch.targets is not None
        matched, label = self.match(batch.targets, anchors)
        label = label.masked_fill(~anchors.inside(batch.sizes), IGNORE)
        index, label = sample(label, self.config.samples, self.config.positive_fraction, generator)
        truth = batch.targets.boxes.gather(1, matched.gather(1, index)[..., None].expand(-1, -1, 4))
        return index, label, truth

    def match(self, targets: Targets, anchors: CanvasAnchors) -> tuple[Tensor, Tensor]:
        """Return the best ground truth (B, N) of each anchor and its label (B, N); see :func:`match`."""
        low, high = self.config.low, self.config.high
        return match(targets.boxes, targets.crowd, anchors.boxes, low, high, keep_best=True)

    def sampled_losses(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, label: Tensor, truth: Tensor
    ) -> dict[str, Tensor]:
        """Return the losses of the sampled anchors.

        Args:
            logits: (B, S).
            deltas, anchors: (B, S, 4).
            label, truth: from :meth:`sample`.
        """
        valid, positive = label != IGNORE, label == 1
        count = valid.sum().clamp(min=1)
        objectness = F.binary_cross_entropy_with_logits(logits, positive.float(), weight=valid.float(), reduction="sum")
        loss = F.smooth_l1_loss(deltas, box_ops.encode(truth, anchors), beta=self.config.beta, reduction="none")
        return {
            "loss_rpn_cls": objectness / count,
            "loss_rpn_loc": loss.masked_fill(~positive[..., None], 0).sum() / count,
        }

    @torch.no_grad()
    def select(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: CanvasAnchors,
        sizes: Tensor,
        train: bool = False,
    ) -> Proposals:
        """Apply deltas to the best anchors of each level, and return the best boxes after NMS.

        Args:
            logits, deltas: per level, from :meth:`forward`; no gradient flows through proposals.
            anchors: anchors of the canvas.
            sizes: (B, 2) height, width of the images.
            train: use the numbers for training.

        Returns:
            Proposals, P = ``proposals_train`` or ``proposals_test``.
        """
        config = self.config
        pre_nms = config.pre_nms_train if train else config.pre_nms_test
        num = config.proposals_train if train else config.proposals_test
        # Top-k before decoding: it reduces a quarter of a million boxes to a few thousand.
        outside = (~anchors.inside(sizes)).split(anchors.lengths, dim=1)
        boxes = anchors.boxes.split(anchors.lengths)
        best = [_top_k(*level, pre_nms) for level in zip(logits, deltas, boxes, outside, strict=True)]
        score, delta, anchor = (torch.stack(parts, dim=1) for parts in zip(*best, strict=True))  # (B, L, pre_nms)
        box = box_ops.decode(delta, anchor, clamp_both=config.clamp_both)
        box = box_ops.clip(box.flatten(1, 2), sizes).view_as(box)
        side = (box[..., 2:] - box[..., :2]).amin(dim=-1)
        score = score.masked_fill((side < config.min_size) | (side <= 0) | (score < self.least_logit), -torch.inf)
        # Sort again, as dropped boxes now have a score of -inf and the NMS needs falling scores.
        score, order = score.sort(dim=-1, descending=True, stable=True)
        box = box.gather(2, order[..., None].expand_as(box))
        keep = nms(box.flatten(0, 1), score.flatten(0, 1), config.nms_threshold).view_as(score)
        score = score.masked_fill(~keep, -torch.inf).flatten(1)  # (B, L * pre_nms)
        top, index = score.topk(min(num, score.shape[1]))
        box = box.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 4))
        box = box.masked_fill(top.isneginf()[..., None], 0)
        return Proposals(_pad(box, num), _pad(top, num, -torch.inf))


def _top_k(logits: Tensor, deltas: Tensor, anchors: Tensor, outside: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best of a level by falling logit: logits (B, num), -inf on padding, deltas and anchors (B, num, 4)."""
    top, index = logits.detach().masked_fill(outside, -torch.inf).topk(min(num, logits.shape[1]))
    chosen = deltas.detach().gather(1, index[..., None].expand(-1, -1, 4))
    return _pad(top, num, -torch.inf), _pad(chosen, num), _pad(anchors[index], num)


def _pad(x: Tensor, num: int, value: float = 0) -> Tensor:
    """Pad (B, n, ...) to (B, num, ...)."""
    short = num - x.shape[1]
    return F.pad(x, (*(0, 0) * (x.dim() - 2), 0, short), value=value) if short else x

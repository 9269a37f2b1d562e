"""The region proposal network: where are objects, whatever they are?

B images   L levels   A anchors per cell   N anchors of all levels   P proposals.
Ren et al. 2015 (Faster R-CNN), section 3.1; over a pyramid: Lin et al. 2017 (FPN), section 4.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.conv import is_plain
from backbones.fused import conv_relu
from detection.models.anchors import AnchorConfig, CanvasAnchors
from detection.ops import boxes as box_ops
from detection.ops.anchor_matching import match_anchors
from detection.ops.levels import Levels, pick
from detection.ops.matching import sample
from detection.ops.nms import nms
from detection.ops.patches import patches
from detection.structures import IGNORE, Batch, Proposals


@dataclass(frozen=True)
class RPNConfig:
    """Anchors, training samples and proposals."""

    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    """Sizes and shapes of the anchors."""
    convs: int = 1
    """Shared 3x3 convolutions before objectness and deltas."""
    samples: int = 256
    """Anchors per image that enter the loss (section 3.1.3)."""
    positive_fraction: float = 0.5
    """At most this part of them is positive."""
    low: float = 0.3
    """Anchors whose best IoU is below are negative."""
    high: float = 0.7
    """Anchors whose best IoU reaches this are positive; between the two they are ignored."""
    beta: float = 0.0
    """Where the box loss turns from squared to linear; 0 is plain L1 (detectron2), torchvision has 1/9."""
    pre_nms_train: int = 2000
    """Best anchors per level that enter the NMS, in training."""
    pre_nms_test: int = 1000
    """The same at test time."""
    proposals_train: int = 1000
    """Proposals per image after the NMS, in training."""
    proposals_test: int = 1000
    """The same at test time."""
    nms_threshold: float = 0.7
    """Of two anchors of one level that overlap more, the better one stays."""
    min_size: float = 1e-3
    """Proposals with a shorter side, in pixels, or without area, are dropped."""
    score_threshold: float = 0.0
    """Proposals with a lower objectness, as a probability, are dropped."""
    clamp_both: bool = False
    """Limit how far an anchor may shrink, not only how far it may grow, as mmdetection does."""


class RPN(nn.Module):
    """Objectness and deltas at every anchor; proposals and losses from them.

    Raises:
        ValueError: a ``score_threshold`` that no probability, or every one, is under.
    """

    def __init__(
        self,
        channels: int,
        anchors_per_cell: int,
        convs: int = 1,
        samples: int = 256,
        positive_fraction: float = 0.5,
        low: float = 0.3,
        high: float = 0.7,
        beta: float = 0.0,
        pre_nms_train: int = 2000,
        pre_nms_test: int = 1000,
        proposals_train: int = 1000,
        proposals_test: int = 1000,
        nms_threshold: float = 0.7,
        min_size: float = 1e-3,
        score_threshold: float = 0.0,
        clamp_both: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= score_threshold < 1:
            raise ValueError(f"model.rpn.score_threshold is {score_threshold}; it must be at least 0 and below 1")
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convs))
        self.objectness = nn.Conv2d(channels, anchors_per_cell, 1)
        self.deltas = nn.Conv2d(channels, anchors_per_cell * 4, 1)
        for conv in [*self.convs, self.objectness, self.deltas]:
            nn.init.normal_(conv.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.per_cell = anchors_per_cell
        self.samples, self.positive_fraction = samples, positive_fraction
        self.low, self.high, self.beta = low, high, beta
        self.pre_nms_train, self.pre_nms_test = pre_nms_train, pre_nms_test
        self.proposals_train, self.proposals_test = proposals_train, proposals_test
        self.nms_threshold, self.min_size = nms_threshold, min_size
        self.clamp_both = clamp_both
        # Compared with logits, so that no sigmoid rounds two of them to the same score.
        self.least_logit = -math.inf if score_threshold == 0 else math.log(score_threshold / (1 - score_threshold))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness logits (B, N_l) and deltas (B, N_l, 4) per level, both float32."""
        logits, deltas = [], []
        for x in features:
            for conv in self.convs:
                x = conv_relu(x, conv)  # type: ignore[arg-type]
            logits.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1).float())
            deltas.append(self.deltas(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4).float())
        return logits, deltas

    def at(self, levels: Levels, index: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, S) and deltas (B, S, 4) of some anchors, with gradient.

        What :meth:`forward` gives there, from windows of the features. The 512 anchors of two images see 4,608 of their
        145,000 feature vectors (at 800 x 1088 pixels), so that the backward pass costs next to nothing, where that of
        the whole maps is a seventh of a training step.

        Args:
            index: (B, S) int64 into the anchors of all levels.
        """
        if not all(is_plain(conv) for conv in (*self.convs, self.objectness, self.deltas)):
            return self._at_of_all(levels, index)
        per_cell, radius = self.per_cell, len(self.convs)
        image = torch.arange(len(index), device=index.device).repeat_interleave(index.shape[1])
        starts = [0]  # of each level, in cells of one image
        for height, width in levels.grids[:-1]:
            starts.append(starts[-1] + height * width)
        cell = index.flatten() // per_cell
        level = sum(((cell >= start).long() for start in starts[1:]), torch.zeros_like(cell))
        cell, columns = cell - pick(starts, level), pick([width for _, width in levels.grids], level)
        x, inside = patches(levels, level, image, cell // columns, cell % columns, radius)
        for conv in self.convs:
            # Beyond the map, each layer of the whole map sees zeros.
            x = _conv(x, conv).relu_()  # type: ignore[arg-type]
            inside = inside[:, 1:-1, 1:-1]
            x = x * inside[:, None]
        anchor = (index.flatten() % per_cell)[:, None]
        logits = _conv(x, self.objectness).flatten(1).gather(1, anchor)
        deltas = _conv(x, self.deltas).view(-1, per_cell, 4).gather(1, anchor[..., None].expand(-1, -1, 4))
        return logits.float().view_as(index), deltas.float().view(*index.shape, 4)

    def _at_of_all(self, levels: Levels, index: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`at` for layers that must be called: picked from the whole maps."""
        logits, deltas = (torch.cat(maps, dim=1) for maps in self(levels.maps))
        return logits.gather(1, index), deltas.gather(1, index[..., None].expand(-1, -1, 4))

    def propose(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: CanvasAnchors,
        sizes: Tensor,
        train: bool = False,
    ) -> Proposals:
        """The best anchors, moved by their deltas, without near-duplicates; no gradient flows through them.

        Args:
            logits, deltas: per level, from :meth:`forward`.
            anchors: of the canvas.
            sizes: (B, 2) height, width of the images.
            train: take the numbers for training.

        Returns:
            Proposals, P = ``proposals_train`` or ``proposals_test``.
        """
        pre_nms = self.pre_nms_train if train else self.pre_nms_test
        num = self.proposals_train if train else self.proposals_test
        with torch.no_grad():
            # Top-k before decoding: a few thousand boxes are decoded instead of a quarter of a million.
            outside = (~anchors.inside(sizes)).split(anchors.lengths, dim=1)
            boxes = anchors.boxes.split(anchors.lengths)
            best = [_best(*level, pre_nms) for level in zip(logits, deltas, boxes, outside, strict=True)]
            score, delta, anchor = (torch.stack(parts, dim=1) for parts in zip(*best, strict=True))  # (B, L, pre_nms)
            box = box_ops.decode(delta, anchor, clamp_both=self.clamp_both)
            box = box_ops.clip(box.flatten(1, 2), sizes).view_as(box)
            side = (box[..., 2:] - box[..., :2]).amin(dim=-1)
            score = score.masked_fill((side < self.min_size) | (side <= 0) | (score < self.least_logit), -torch.inf)
            # A dropped box must not stand between better and worse ones: the NMS wants falling scores.
            score, order = score.sort(dim=-1, descending=True, stable=True)
            box = box.gather(2, order[..., None].expand_as(box))
            keep = nms(box.flatten(0, 1), score.flatten(0, 1), self.nms_threshold).view_as(score)
            score = score.masked_fill(~keep, -torch.inf).flatten(1)  # (B, L * pre_nms)
            top, index = score.topk(min(num, score.shape[1]))
            box = box.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 4))
            box = box.masked_fill(top.isneginf()[..., None], 0)
            return Proposals(_pad(box, num), _pad(top, num, -torch.inf))

    def losses(
        self, levels: Levels, anchors: CanvasAnchors, batch: Batch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``loss_rpn_cls`` and ``loss_rpn_loc`` over ``samples`` anchors per image (equation 1).

        Args:
            levels: the features that :meth:`forward` takes, as a table.
            anchors: of the canvas.
        """
        assert batch.targets is not None
        with torch.no_grad():
            matched, label = match_anchors(
                batch.targets.boxes, batch.targets.crowd, anchors.boxes, levels.grids, self.low, self.high
            )
            label = label.masked_fill(~anchors.inside(batch.sizes), IGNORE)
            index, label = sample(label, self.samples, self.positive_fraction, generator)
        return self.sampled_losses(*self.at(levels, index), anchors.boxes, batch, index, label, matched)

    def sampled_losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchor: Tensor,
        batch: Batch,
        index: Tensor,
        label: Tensor,
        matched: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of the sampled anchors.

        Args:
            logits, deltas: (B, samples), (B, samples, 4) from :meth:`at`.
            anchor: (N, 4).
            index, label: (B, samples) from :func:`~detection.ops.matching.sample`.
            matched: (B, N) index into G.
        """
        assert batch.targets is not None
        valid, positive = label != IGNORE, label == 1
        count = valid.sum().clamp(min=1)
        objectness = F.binary_cross_entropy_with_logits(logits, positive.float(), weight=valid.float(), reduction="sum")
        truth = batch.targets.boxes.gather(1, matched.gather(1, index)[..., None].expand(-1, -1, 4))
        target = box_ops.encode(truth, anchor[index])
        loss = F.smooth_l1_loss(deltas, target, beta=self.beta, reduction="none")
        return {
            "loss_rpn_cls": objectness / count,
            "loss_rpn_loc": loss.masked_fill(~positive[..., None], 0).sum() / count,
        }


def _conv(windows: Tensor, conv: nn.Conv2d) -> Tensor:
    """The convolution inside windows (R, C, k, k); a matrix product, several times as fast, where one cell is left."""
    if windows.shape[2:] != conv.kernel_size:
        return F.conv2d(windows, conv.weight, conv.bias)
    rows, kernel = (x.permute(0, 2, 3, 1).flatten(1) for x in (windows, conv.weight))  # as they lie, channels last
    return F.linear(rows, kernel, conv.bias)[..., None, None]


def _best(logits: Tensor, deltas: Tensor, anchors: Tensor, outside: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best of a level: logits (B, num) by falling score, -inf on padding, and deltas and anchors (B, num, 4)."""
    top, index = logits.detach().masked_fill(outside, -torch.inf).topk(min(num, logits.shape[1]))
    chosen = deltas.detach().gather(1, index[..., None].expand(-1, -1, 4))
    return _pad(top, num, -torch.inf), _pad(chosen, num), _pad(anchors[index], num)


def _pad(x: Tensor, num: int, value: float = 0) -> Tensor:
    """(B, n, ...) to (B, num, ...)."""
    short = num - x.shape[1]
    return F.pad(x, (*(0, 0) * (x.dim() - 2), 0, short), value=value) if short else x

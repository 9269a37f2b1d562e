"""A faster RPN, whose loss computes only the sampled anchors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.fast.conv import is_plain
from backbones.fast.fused import conv_relu
from detection.fast.anchors import cached_anchors
from detection.fast.levels import Levels, Pyramid, levels_of, pick
from detection.fast.matching import match_anchors
from detection.fast.patches import patches
from detection.models.anchors import CanvasAnchors
from detection.models.rpn import RPN
from detection.structures import Batch, Proposals, Targets


class FastRPN(RPN):
    """:class:`~detection.models.rpn.RPN` that computes its loss from windows around the sampled anchors.

    Proposals need no gradient, and the loss needs only a few hundred anchors per image.
    """

    def hidden(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv_relu(x, conv)  # type: ignore[arg-type]
        return x

    def losses(
        self, features: list[Tensor], batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], Proposals]:
        anchors = self.canvas_anchors(features, (batch.images.shape[-2], batch.images.shape[-1]))
        index, label, truth = self.sample(batch, anchors, generator)
        losses = self.sampled_losses(*self.at(levels_of(features), index), anchors.boxes[index], label, truth)
        return losses, self.select(*self.outputs(features), anchors, batch.sizes, train=True)

    def propose(self, features: list[Tensor], canvas: tuple[int, int], sizes: Tensor) -> Proposals:
        return self.select(*self.outputs(features), self.canvas_anchors(features, canvas), sizes)

    def canvas_anchors(self, features: Sequence[Tensor], canvas: tuple[int, int]) -> CanvasAnchors:
        grids = [(x.shape[2], x.shape[3]) for x in features]
        return cached_anchors(self.anchors, canvas, grids, features[0].device)

    def outputs(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return logits and deltas of all anchors, without gradient; uses those of the pyramid if it has them."""
        if isinstance(features, Pyramid) and features.rpn_outputs is not None:
            return features.rpn_outputs
        with torch.no_grad():
            return self(features)  # type: ignore[no-any-return]

    def match(self, targets: Targets, anchors: CanvasAnchors) -> tuple[Tensor, Tensor]:
        low, high = self.config.low, self.config.high
        return match_anchors(targets.boxes, targets.crowd, anchors.boxes, anchors.grids, low, high)

    def at(self, levels: Levels, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, S) and deltas (B, S, 4) of some anchors, with gradient.

        The values are those of :meth:`forward`, computed from windows of the features. At 800 x 1088 pixels, the 512
        anchors of two images need 4,608 of 145,000 feature vectors. So the backward pass takes almost no time, while
        that of the complete maps takes a seventh of a training step.

        Args:
            levels: the pyramid.
            index: (B, S) int64 into the anchors of all levels.
        """
        if not all(is_plain(conv) for conv in (*self.convs, self.objectness, self.deltas)):
            return self._at_of_all(levels, index)
        per_cell, radius = self.anchors.per_cell, len(self.convs)
        image = torch.arange(len(index), device=index.device).repeat_interleave(index.shape[1])
        starts = [0]  # first cell of each level, in cells of one image
        for height, width in levels.grids[:-1]:
            starts.append(starts[-1] + height * width)
        cell = index.flatten() // per_cell
        level = sum(((cell >= start).long() for start in starts[1:]), torch.zeros_like(cell))
        cell, columns = cell - pick(starts, level), pick([width for _, width in levels.grids], level)
        x, inside = patches(levels, level, image, cell // columns, cell % columns, radius)
        for conv in self.convs:
            # Cells outside the map are zero, as in the padding of a convolution of the complete map.
            x = _conv(x, conv).relu_()  # type: ignore[arg-type]
            inside = inside[:, 1:-1, 1:-1]
            x = x * inside[:, None]
        anchor = (index.flatten() % per_cell)[:, None]
        logits = _conv(x, self.objectness).flatten(1).gather(1, anchor)
        deltas = _conv(x, self.deltas).view(-1, per_cell, 4).gather(1, anchor[..., None].expand(-1, -1, 4))
        return logits.float().view_as(index), deltas.float().view(*index.shape, 4)

    def _at_of_all(self, levels: Levels, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as :meth:`at` from the complete maps, for layers that must be called (hooks, subclasses)."""
        logits, deltas = (torch.cat(maps, dim=1) for maps in self(levels.maps))
        return logits.gather(1, index), deltas.gather(1, index[..., None].expand(-1, -1, 4))


def _conv(windows: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return the convolution inside windows (R, C, k, k); for a single result cell, a matrix product is much faster."""
    if windows.shape[2:] != conv.kernel_size:
        return F.conv2d(windows, conv.weight, conv.bias)
    rows, kernel = (x.permute(0, 2, 3, 1).flatten(1) for x in (windows, conv.weight))  # no copy: they are channels last
    return F.linear(rows, kernel, conv.bias)[..., None, None]

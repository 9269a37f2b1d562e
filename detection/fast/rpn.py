"""The RPN whose loss looks at the sampled anchors alone."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.fast.conv import is_plain
from backbones.fast.fused import conv_relu
from detection.fast.anchors import kept_anchors
from detection.fast.levels import Levels, Pyramid, levels_of, pick
from detection.fast.matching import match_anchors
from detection.fast.patches import patches
from detection.models.anchors import CanvasAnchors
from detection.models.rpn import RPN
from detection.structures import Batch, Proposals, Targets


class FastRPN(RPN):
    """:class:`~detection.models.rpn.RPN`: proposals without gradient, the loss from windows around its anchors.

    No gradient flows through proposals, and the loss asks for a few hundred anchors of an image.
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
        return kept_anchors(self.anchors, canvas, grids, features[0].device)

    def outputs(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return logits and deltas at all anchors, without gradient; once for each pyramid."""
        if isinstance(features, Pyramid) and features.rpn_outputs is not None:
            return features.rpn_outputs
        with torch.no_grad():
            return self(features)  # type: ignore[no-any-return]

    def match(self, targets: Targets, anchors: CanvasAnchors) -> tuple[Tensor, Tensor]:
        low, high = self.config.low, self.config.high
        return match_anchors(targets.boxes, targets.crowd, anchors.boxes, anchors.grids, low, high)

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
        per_cell, radius = self.anchors.per_cell, len(self.convs)
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


def _conv(windows: Tensor, conv: nn.Conv2d) -> Tensor:
    """The convolution inside windows (R, C, k, k); a matrix product, several times as fast, where one cell is left."""
    if windows.shape[2:] != conv.kernel_size:
        return F.conv2d(windows, conv.weight, conv.bias)
    rows, kernel = (x.permute(0, 2, 3, 1).flatten(1) for x in (windows, conv.weight))  # as they lie, channels last
    return F.linear(rows, kernel, conv.bias)[..., None, None]

"""RoIAlign over all levels and images at once (Mask R-CNN, section 3).

B images, S RoIs per image, R = B * S RoIs, C channels, r bins per side.  Boxes: XYXY in canvas pixels.

Every bin is a weighted sum of feature vectors, so the whole operation is one product with a sparse matrix: its columns
are the pixels of all levels and images, its rows the bins. ``embedding_bag`` is that product. It reads each feature
vector as one piece, which is why the features are laid channels last, and it is several times as fast on CPU as the
loop of torchvision, forward and (with the transposed matrix) backward.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones import kernels
from detection.ops.levels import GradientSum, Levels, as_levels, leave, pick, summed_in

_PIECE = 1 << 20
"""Numbers of a table's gradient that are computed at a time where it is added to that of others."""


def assign_levels(
    boxes: Tensor, levels: int, canonical_size: float = 224, canonical_level: int = 4, first_level: int = 2
) -> Tensor:
    """The pyramid level that pools each box (Feature Pyramid Networks, equation 1).

    Args:
        boxes: (..., 4).
        levels: number of levels; boxes too small or too large take the nearest.
        canonical_size: side in pixels of a box that belongs to ``canonical_level``.
        first_level: name of the first one, 2 for P2.

    Returns:
        (...) int64 in [0, levels); 0 for a box without area.
    """
    width, height = (boxes[..., 2:] - boxes[..., :2]).float().unbind(-1)
    size = (width * height).sqrt()
    # The epsilon lifts a box of exactly 112, 224, 448 pixels onto its own level whatever the logarithm rounds to.
    level = torch.floor(canonical_level + torch.log2(size / canonical_size) + 1e-6) - first_level
    return level.clamp(min=0, max=levels - 1).nan_to_num(0).long()


def roi_align(
    features: Sequence[Tensor] | Levels,
    strides: Sequence[int],
    boxes: Tensor,
    output_size: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """Pool a fixed grid of features from every box, each from its own level.

    Each bin is the mean of bilinear samples. A sample more than one cell outside the level counts as zero, any other
    is moved to the rim. Gradients flow into the features, not into the boxes.

    Args:
        features: per level (B, C, H_l, W_l), best channels last; or the table that was made of them.
        strides: of the levels that are pooled from, in canvas pixels; those above are left out.
        boxes: (B, S, 4), clipped to the canvas. Boxes without area or not finite give finite numbers.
        output_size: r.
        sampling_ratio: samples per bin and axis; 0 takes one per feature cell (Detectron2's default; slower, and it
            waits for the device).
        aligned: shift by half a cell, so that a cell's value stands at its centre. Without it a box is at least one
            cell wide (the older convention, torchvision's default).

    Returns:
        (B, S, C, r, r) in the dtype of the features, channels last in memory.
    """
    batch, num = boxes.shape[:2]
    levels = features if isinstance(features, Levels) else as_levels(features)
    image = torch.arange(batch, device=boxes.device).repeat_interleave(num)
    pooled = pool(levels, strides, boxes.flatten(0, 1), image, output_size, sampling_ratio, aligned)
    return pooled.unflatten(0, (batch, num))


def pool(
    levels: Levels,
    strides: Sequence[int],
    boxes: Tensor,
    image: Tensor,
    output_size: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """:func:`roi_align` of boxes (R, 4) on the images (R,) int64 that they name: (R, C, r, r)."""
    rows, grids = levels.vectors, levels.grids[: len(strides)]
    # float32 under bfloat16 features too: eight bits cannot say where on a feature map a sample lies.
    flat = boxes.detach().to(torch.promote_types(torch.float32, rows.dtype))
    first, last = (round(math.log2(strides[i])) for i in (0, -1))
    level = assign_levels(flat, last - first + 1, first_level=first)  # (R,); of two maps of one stride, the first
    flat = flat * pick([1 / stride for stride in strides], level)[:, None] - 0.5 * aligned
    height, width = (pick(sides, level) for sides in zip(*grids, strict=True))
    origin = pick(levels.starts, level) + image * height * width  # (R,) row of the image's first pixel on that level
    sides = flat[:, 2:] - flat[:, :2]
    if not aligned:
        sides = sides.clamp(min=1)
    if sampling_ratio and flat.dtype == torch.float32 and samples_in_place(rows):
        places = torch.stack([height, width, origin], dim=1)
        rois = torch.cat([flat[:, :2], sides], dim=1)
        pooled = _Sampled.apply(rows, rois, places, output_size, sampling_ratio, levels.gradient)  # (R * r * r, C)
    else:
        pixels = _fixed_pixels if sampling_ratio else _adaptive_pixels
        index, weight, offsets = pixels(flat[:, :2], sides, height, width, origin, output_size, sampling_ratio)
        pooled = _WeightedSum.apply(rows, index, weight.to(rows.dtype), offsets, levels.gradient)
    return pooled.view(len(boxes), output_size, output_size, rows.shape[1]).permute(0, 3, 1, 2)


def samples_in_place(rows: Tensor) -> bool:
    """Whether a kernel for GPUs takes over; it adds gradients in no certain order."""
    return kernels.usable(rows) and not torch.are_deterministic_algorithms_enabled()


class _Sampled(torch.autograd.Function):
    """On a GPU: the samples are taken where they lie, and their gradients added there, in float32."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, rois: Tensor, places: Tensor, bins: int, samples: int, gradient: GradientSum | None
    ) -> Tensor:
        from detection.ops.kernels import roi_align as kernel

        ctx.save_for_backward(rois, places)
        ctx.shape, ctx.how, ctx.gradient = rows.shape, (bins, samples), gradient
        return kernel.pool(rows, rois, places, bins, samples)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from detection.ops.kernels import roi_align as kernel

        rois, places = ctx.saved_tensors

        def add(total: Tensor) -> Tensor:
            kernel.add_gradient(total, grad, rois, places, *ctx.how)
            return total

        zeros = partial(grad.new_zeros, ctx.shape, dtype=summed_in(grad))
        return leave(ctx.gradient, lambda: add(zeros()), add), None, None, None, None, None


class _WeightedSum(torch.autograd.Function):
    """Bag i is the sum of weight[k] * rows[index[k]] over offsets[i] <= k < offsets[i + 1]; rows alone have a gradient.

    PyTorch's own backward adds one vector after the other in the dtype of the features. The transposed product adds
    in float32, in a fixed order, and is faster. It goes to ``gradient``, if there is one.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, index: Tensor, weight: Tensor, offsets: Tensor, gradient: GradientSum | None
    ) -> Tensor:
        ctx.save_for_backward(index, weight, offsets)
        ctx.num_rows, ctx.gradient = len(rows), gradient
        return _sum_bags(rows, index, weight, offsets)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, weight, offsets = ctx.saved_tensors
        bags = torch.arange(len(offsets) - 1, dtype=index.dtype, device=index.device)
        bag = bags.repeat_interleave(offsets.diff(), output_size=len(index))
        index, order = index.sort(stable=True)
        ends = torch.arange(ctx.num_rows + 1, dtype=index.dtype, device=index.device)
        offsets = torch.searchsorted(index, ends, out_int32=True)
        bag, weight = bag[order], weight[order]
        del index, order  # memory is scarcest here
        product = grad.contiguous(), bag, weight, offsets
        dtype = summed_in(grad)
        to_rows = leave(ctx.gradient, lambda: _sum_bags(*product).to(dtype), lambda total: _add_bags(total, *product))
        return to_rows, None, None, None, None


def _sum_bags(rows: Tensor, index: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    return F.embedding_bag(index, rows, offsets, mode="sum", per_sample_weights=weight, include_last_offset=True)


def _add_bags(total: Tensor, rows: Tensor, index: Tensor, weight: Tensor, offsets: Tensor) -> None:
    """Adds :func:`_sum_bags` to ``total``.

    On a processor piece by piece, which needs little memory; others would wait to know where a piece ends.
    """
    step = _PIECE // total.shape[1] if total.device.type == "cpu" else len(total)
    first_taps = offsets[:-1:step].tolist() if step < len(total) else [0]
    for first, taps in zip(range(0, len(total), step), pairwise([*first_taps, len(index)]), strict=True):
        ends, part = offsets[first : first + step + 1], slice(*taps)
        total[first : first + step] += _sum_bags(rows, index[part], weight[part], ends - ends[0])


def _fixed_pixels(
    corner: Tensor, sides: Tensor, height: Tensor, width: Tensor, origin: Tensor, bins: int, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, weights and offsets of all bins, with ``samples`` per bin and axis.

    Args:
        corner, sides: (R, 2) x, y, in cells of the RoI's level.
        height, width: (R,) of the level.
        origin: (R,) row of its first pixel.
    """
    step = torch.arange(samples, device=corner.device)
    point = _points(corner.T, sides.T, bins, step, samples)  # (2, R, bins, samples): both axes at once
    low, high, low_weight, high_weight = _neighbours(point, torch.stack([width, height]))
    x, y = torch.cat([low, high], dim=-1)  # (R, bins, 2 * samples)
    x_weight, y_weight = torch.cat([low_weight, high_weight], dim=-1) / samples
    y = y * width[:, None, None] + origin[:, None, None]
    # int32: the sort of the backward pass and the product itself are faster for it.
    index = y.int()[:, :, None, :, None] + x.int()[:, None, :, None, :]  # (R, bins, bins, 2 * samples, 2 * samples)
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    taps = 4 * samples * samples
    offsets = torch.arange(0, index.numel() + 1, taps, dtype=torch.int32, device=index.device)
    return index.flatten(), weight.flatten(), offsets


def _adaptive_pixels(
    corner: Tensor, sides: Tensor, height: Tensor, width: Tensor, origin: Tensor, bins: int, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`_fixed_pixels`, with as many samples per bin as it covers cells, rounded up.

    The samples of a bin lie no further apart than the cells, so that along each axis it touches a gapless run of
    cells. The weights that fall on one cell are added up before the two axes are multiplied.
    """
    axes = []
    for axis, extent in enumerate((width, height)):
        # Only a box that reaches far beyond its level, or a broken one, asks for more samples than there are cells.
        count = (sides[:, axis] / bins).ceil().nan_to_num(0).clamp(min=0).minimum(extent + 1).long()  # (R,)
        divisor = count.clamp(min=1)[:, None, None]
        step = torch.arange(int(F.pad(count, (0, 1), value=1).amax()), device=corner.device)
        point = _points(corner[:, axis], sides[:, axis], bins, step, divisor)
        low, high, low_weight, high_weight = _neighbours(point, extent)
        used = (step < count[:, None, None]) / divisor  # (R, 1, samples)
        axes.append(_merge(torch.cat([low, high], dim=-1), torch.cat([low_weight * used, high_weight * used], dim=-1)))
    (x, run_x, x_weight), (y, run_y, y_weight) = axes
    lengths = (run_y[:, :, None] * run_x[:, None, :]).flatten()  # (R * bins * bins,)
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    bag = torch.arange(len(lengths), device=corner.device).repeat_interleave(lengths)  # (taps of all bins,)
    tap = torch.arange(len(bag), device=corner.device) - offsets[bag]
    roi = bag // (bins * bins)
    row, column = bag // bins, roi * bins + bag % bins  # into (R * bins): the bin's place along y and along x
    run = run_x.flatten()[column]
    down = tap // run
    right = tap - down * run
    index = origin[roi] + (y.flatten()[row] + down) * width[roi] + x.flatten()[column] + right
    return index.int(), y_weight.flatten(0, 1)[row, down] * x_weight.flatten(0, 1)[column, right], offsets.int()


def _merge(cells: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First cell (R, bins) and length (R, bins) of each run, and the weights (R, bins, longest run) of its cells.

    Args:
        cells, weight: (R, bins, taps); a tap of weight zero does not count.
    """
    unused = weight == 0
    first = cells.masked_fill(unused, torch.iinfo(cells.dtype).max).amin(dim=-1, keepdim=True)
    place = (cells - first).masked_fill(unused, 0)
    run = (place + 1).masked_fill(unused, 0).amax(dim=-1)  # (R, bins)
    longest = int(F.pad(run.flatten(), (0, 1), value=1).amax())
    merged = weight.new_zeros((*run.shape, longest)).scatter_add_(-1, place, weight)
    return first.squeeze(-1), run, merged


def _points(corner: Tensor, side: Tensor, bins: int, step: Tensor, samples: Tensor | int) -> Tensor:
    """(..., R, bins, samples): where the samples lie along an axis, in cells.

    Args:
        corner, side: (..., R).
        step: (samples,).
        samples: of each bin, to broadcast against the result.
    """
    bin_side = (side / bins)[..., None, None]
    place = torch.arange(bins, device=corner.device)[:, None]
    return corner[..., None, None] + place * bin_side + (step + 0.5) * bin_side / samples


def _neighbours(point: Tensor, extent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cells left and right of each point and their weights, for linear interpolation along an axis.

    Args:
        point: (..., R, bins, samples).
        extent: (..., R) cells.
    """
    extent = extent[..., None, None]
    inside = (point >= -1) & (point <= extent)  # false for NaN
    point = torch.where(inside, point.clamp(min=0).minimum(extent - 1), 0)
    low = point.floor()
    weight = point - low
    low = low.long()
    return low, (low + 1).minimum(extent - 1), (1 - weight) * inside, weight * inside

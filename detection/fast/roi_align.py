"""RoIAlign from the table of a pyramid: several times as fast, and its gradient is added where others left theirs.

B images, S RoIs per image, R = B * S RoIs, C channels, r bins per side.  Boxes: XYXY in canvas pixels.

``embedding_bag`` reads each feature vector as one piece, which is why features are laid channels last. On a CPU it is
several times as fast as torchvision's loop, forward and, with the transposed matrix, backward.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.fast import kernels
from detection.fast.levels import GradientSum, Levels, leave, pick, summed_in
from detection.ops.roi_align import assign_levels, pixels_of

_PIECE = 1 << 20
"""Numbers of a table's gradient that are computed at a time where it is added to that of others."""


def roi_align(
    levels: Levels,
    strides: Sequence[int],
    boxes: Tensor,
    output_size: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """Do what :func:`detection.ops.roi_align.roi_align` does, from the table of a pyramid."""
    batch, num = boxes.shape[:2]
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
        pixels = pixels_of(sampling_ratio)
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
        from detection.fast.kernels import roi_align as kernel

        ctx.save_for_backward(rois, places)
        ctx.shape, ctx.how, ctx.gradient = rows.shape, (bins, samples), gradient
        return kernel.pool(rows, rois, places, bins, samples)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from detection.fast.kernels import roi_align as kernel

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

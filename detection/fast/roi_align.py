"""RoIAlign from the table of a pyramid: several times as fast, and its gradient is added to a shared sum.

B images, S RoIs per image, R = B * S RoIs, C channels, r bins per side.  Boxes: XYXY in canvas pixels.

``embedding_bag`` reads each feature vector as one contiguous block, so the table is in channels-last layout. On a CPU,
it is several times as fast as torchvision's loop, forward and, with the transposed matrix, backward.
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
from detection.fast.levels import GradientSum, Levels, collect_gradient, pick, sum_dtype
from detection.ops.roi_align import assign_levels, pixels_of

_PIECE = 1 << 20
"""Numbers of a table's gradient that a CPU computes at a time when it adds them to the sum."""


def roi_align(
    levels: Levels,
    strides: Sequence[int],
    boxes: Tensor,
    output_size: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """Return the same as :func:`detection.ops.roi_align.roi_align`, from the table of a pyramid."""
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
    """Run RoIAlign for boxes (R, 4), each on the image (R,) int64 with this index; returns (R, C, r, r)."""
    rows, grids = levels.vectors, levels.grids[: len(strides)]
    # float32 also for bfloat16 features: eight bits are too few for a position on a feature map.
    flat = boxes.detach().to(torch.promote_types(torch.float32, rows.dtype))
    first, last = (round(math.log2(strides[i])) for i in (0, -1))
    level = assign_levels(flat, last - first + 1, first_level=first)  # (R,); of two maps of equal stride, the first
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
    """Return whether to use the GPU kernel, which adds gradients in an undefined order."""
    return kernels.usable(rows) and not torch.are_deterministic_algorithms_enabled()


class _Sampled(torch.autograd.Function):
    """RoIAlign by a GPU kernel, which reads samples from the table and adds gradients to it in float32."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, rois: Tensor, places: Tensor, bins: int, samples: int, gradient: GradientSum | None
    ) -> Tensor:
        from detection.fast.kernels import roi_align as kernel

        ctx.save_for_backward(rois, places)
        ctx.shape, ctx.options, ctx.gradient = rows.shape, (bins, samples), gradient
        return kernel.pool(rows, rois, places, bins, samples)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from detection.fast.kernels import roi_align as kernel

        rois, places = ctx.saved_tensors

        def add(total: Tensor) -> Tensor:
            kernel.add_gradient(total, grad, rois, places, *ctx.options)
            return total

        zeros = partial(grad.new_zeros, ctx.shape, dtype=sum_dtype(grad))
        return collect_gradient(ctx.gradient, lambda: add(zeros()), add), None, None, None, None, None


class _WeightedSum(torch.autograd.Function):
    """Bag i is the sum of weight[k] * rows[index[k]] over offsets[i] <= k < offsets[i + 1]; only rows get a gradient.

    PyTorch's own backward pass adds vectors one by one in the dtype of the features. The transposed product adds in
    float32, in a fixed order, and is faster. It adds the result to ``gradient``, if there is one.
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
        del index, order  # the peak of memory is here
        product = grad.contiguous(), bag, weight, offsets
        dtype = sum_dtype(grad)
        to_rows = collect_gradient(
            ctx.gradient, lambda: _sum_bags(*product).to(dtype), lambda total: _add_bags(total, *product)
        )
        return to_rows, None, None, None, None


def _sum_bags(rows: Tensor, index: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    return F.embedding_bag(index, rows, offsets, mode="sum", per_sample_weights=weight, include_last_offset=True)


def _add_bags(total: Tensor, rows: Tensor, index: Tensor, weight: Tensor, offsets: Tensor) -> None:
    """Add :func:`_sum_bags` to ``total``.

    A CPU adds it piece by piece, which needs little memory. On a GPU, finding the end of a piece would synchronise.
    """
    step = _PIECE // total.shape[1] if total.device.type == "cpu" else len(total)
    first_taps = offsets[:-1:step].tolist() if step < len(total) else [0]
    for first, taps in zip(range(0, len(total), step), pairwise([*first_taps, len(index)]), strict=True):
        ends, part = offsets[first : first + step + 1], slice(*taps)
        total[first : first + step] += _sum_bags(rows, index[part], weight[part], ends - ends[0])

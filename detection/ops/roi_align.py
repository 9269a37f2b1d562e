"""RoIAlign for all levels and images at once (Mask R-CNN, section 3).

B images, S RoIs per image, R = B * S RoIs, C channels, r bins per side.  Boxes: XYXY in canvas pixels.

Every bin is a weighted sum of feature vectors. So the operation is one product with a sparse matrix, which has a column
for each pixel of all levels and images, and a row for each bin. ``embedding_bag`` computes this product.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def assign_levels(
    boxes: Tensor, levels: int, canonical_size: float = 224, canonical_level: int = 4, first_level: int = 2
) -> Tensor:
    """Return the pyramid level that pools each box (Feature Pyramid Networks, equation 1).

    Args:
        boxes: (..., 4).
        levels: number of levels; boxes that are too small or too large get the nearest level.
        canonical_size: side in pixels of a box that belongs to ``canonical_level``.
        first_level: number of the first level, 2 for P2.

    Returns:
        (...) int64 in [0, levels); 0 for a box without area.
    """
    width, height = (boxes[..., 2:] - boxes[..., :2]).float().unbind(-1)
    size = (width * height).sqrt()
    # The epsilon puts a box of exactly 112, 224 or 448 pixels on its own level, however the logarithm rounds.
    level = torch.floor(canonical_level + torch.log2(size / canonical_size) + 1e-6) - first_level
    return level.clamp(min=0, max=levels - 1).nan_to_num(0).long()


def roi_align(
    features: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    output_size: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """Pool a fixed grid of features from every box, on the pyramid level for its size.

    Each bin is the mean of bilinear samples. A sample more than one cell outside the level is zero; other samples
    outside move to the border. Gradients flow into the features, not into the boxes.

    Args:
        features: per level (B, C, H_l, W_l).
        strides: strides of the levels to pool from, in canvas pixels; further levels of ``features`` are not used.
        boxes: (B, S, 4), clipped to the canvas. Boxes without area, or with NaN or Inf, give finite features.
        output_size: r.
        sampling_ratio: samples per bin and axis; 0: one per feature cell (Detectron2's default; slower).
        aligned: shift by half a cell, so that a cell's value belongs to its centre. If False, a box is at least one
            cell wide (the older convention, torchvision's default).

    Returns:
        (B, S, C, r, r) in the dtype of the features, channels last in memory.
    """
    (batch, num), features = boxes.shape[:2], features[: len(strides)]
    rows = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in features])  # (cells of all levels, C)
    # float32 also for bfloat16 features: eight bits are too few for a position on a feature map.
    boxes = boxes.detach().flatten(0, 1).to(torch.promote_types(torch.float32, rows.dtype))
    first, last = (round(math.log2(strides[i])) for i in (0, -1))
    level = assign_levels(boxes, last - first + 1, first_level=first)  # (R,); of two maps of equal stride, the first

    def of_level(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=boxes.device)[level]

    boxes = boxes * of_level([1 / stride for stride in strides])[:, None] - 0.5 * aligned  # in cells
    height, width = of_level([x.shape[2] for x in features]), of_level([x.shape[3] for x in features])
    starts = [0]
    for x in features[:-1]:
        starts.append(starts[-1] + batch * x.shape[2] * x.shape[3])
    image = torch.arange(batch, device=boxes.device).repeat_interleave(num, output_size=batch * num)
    origin = of_level(starts) + image * height * width  # (R,) row of the image's first cell on that level
    sides = boxes[:, 2:] - boxes[:, :2]
    sides = sides if aligned else sides.clamp(min=1)
    index, weight, offsets = pixels_of(sampling_ratio)(
        boxes[:, :2], sides, height, width, origin, output_size, sampling_ratio
    )
    pooled = F.embedding_bag(
        index, rows, offsets, mode="sum", per_sample_weights=weight.to(rows.dtype), include_last_offset=True
    )
    return pooled.view(batch, num, output_size, output_size, rows.shape[1]).movedim(-1, 2)


def pixels_of(sampling_ratio: int) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Return the function that places the samples: :func:`fixed_pixels`, or ``adaptive_pixels`` for a ratio of 0."""
    if sampling_ratio:
        return fixed_pixels
    from detection.ops.adaptive_sampling import adaptive_pixels  # here, as that module imports this one

    return adaptive_pixels


def fixed_pixels(
    corner: Tensor, sides: Tensor, height: Tensor, width: Tensor, origin: Tensor, bins: int, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, weights and offsets of all bins, with ``samples`` per bin and axis.

    Args:
        corner, sides: (R, 2) x, y, in cells of the RoI's level.
        height, width: (R,) of the level.
        origin: (R,) row of its first pixel.
    """
    step = torch.arange(samples, device=corner.device)
    point = sample_points(corner.T, sides.T, bins, step, samples)  # (2, R, bins, samples): both axes at once
    low, high, low_weight, high_weight = neighbours(point, torch.stack([width, height]))
    x, y = torch.cat([low, high], dim=-1)  # (R, bins, 2 * samples)
    x_weight, y_weight = torch.cat([low_weight, high_weight], dim=-1) / samples
    y = y * width[:, None, None] + origin[:, None, None]
    # int32 makes the product and the sort in its backward pass faster.
    index = y.int()[:, :, None, :, None] + x.int()[:, None, :, None, :]  # (R, bins, bins, 2 * samples, 2 * samples)
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    taps = 4 * samples * samples
    offsets = torch.arange(0, index.numel() + 1, taps, dtype=torch.int32, device=index.device)
    return index.flatten(), weight.flatten(), offsets


def sample_points(corner: Tensor, side: Tensor, bins: int, step: Tensor, samples: Tensor | int) -> Tensor:
    """Return the positions of the samples along an axis, in cells: (..., R, bins, samples).

    Args:
        corner, side: (..., R).
        step: (samples,).
        samples: number of samples per bin, a number or a tensor that broadcasts against the result.
    """
    bin_side = (side / bins)[..., None, None]
    place = torch.arange(bins, device=corner.device)[:, None]
    return corner[..., None, None] + place * bin_side + (step + 0.5) * bin_side / samples


def neighbours(point: Tensor, extent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cells left and right of each point, and their weights, for linear interpolation along an axis.

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

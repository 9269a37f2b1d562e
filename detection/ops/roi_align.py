"""RoIAlign over all levels and images at once (Mask R-CNN, section 3).

B images, S RoIs per image, R = B * S RoIs, C channels, r bins per side.  Boxes: XYXY in canvas pixels.

Every bin is a weighted sum of feature vectors, so the whole operation is one product with a sparse matrix: its columns
are the pixels of all levels and images, its rows the bins. ``embedding_bag`` is that product.
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
    features: Sequence[Tensor],
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
        features: per level (B, C, H_l, W_l).
        strides: of the levels that are pooled from, in canvas pixels; those above are left out.
        boxes: (B, S, 4), clipped to the canvas. Boxes without area or not finite give finite numbers.
        output_size: r.
        sampling_ratio: samples per bin and axis; 0 takes one per feature cell (Detectron2's default; slower).
        aligned: shift by half a cell, so that a cell's value stands at its centre. Without it a box is at least one
            cell wide (the older convention, torchvision's default).

    Returns:
        (B, S, C, r, r) in the dtype of the features, channels last in memory.
    """
    (batch, num), features = boxes.shape[:2], features[: len(strides)]
    rows = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in features])  # (cells of all levels, C)
    # float32 under bfloat16 features too: eight bits cannot say where on a feature map a sample lies.
    boxes = boxes.detach().flatten(0, 1).to(torch.promote_types(torch.float32, rows.dtype))
    first, last = (round(math.log2(strides[i])) for i in (0, -1))
    level = assign_levels(boxes, last - first + 1, first_level=first)  # (R,); of two maps of one stride, the first

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
    """Return the function that places the samples: :func:`fixed_pixels`, or one that adapts to the box."""
    if sampling_ratio:
        return fixed_pixels
    from detection.ops.adaptive_sampling import adaptive_pixels  # it needs functions of this module

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
    # int32: the sort of the backward pass and the product itself are faster for it.
    index = y.int()[:, :, None, :, None] + x.int()[:, None, :, None, :]  # (R, bins, bins, 2 * samples, 2 * samples)
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    taps = 4 * samples * samples
    offsets = torch.arange(0, index.numel() + 1, taps, dtype=torch.int32, device=index.device)
    return index.flatten(), weight.flatten(), offsets


def sample_points(corner: Tensor, side: Tensor, bins: int, step: Tensor, samples: Tensor | int) -> Tensor:
    """(..., R, bins, samples): where the samples lie along an axis, in cells.

    Args:
        corner, side: (..., R).
        step: (samples,).
        samples: of each bin, to broadcast against the result.
    """
    bin_side = (side / bins)[..., None, None]
    place = torch.arange(bins, device=corner.device)[:, None]
    return corner[..., None, None] + place * bin_side + (step + 0.5) * bin_side / samples


def neighbours(point: Tensor, extent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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

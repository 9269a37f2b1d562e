"""Sampling points of RoIAlign, one per feature cell that a bin covers (Detectron2's default).

R RoIs   r bins per side.  Positions are in cells of the RoI's level.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.ops.roi_align import neighbours, sample_points


def adaptive_pixels(
    corner: Tensor, sides: Tensor, height: Tensor, width: Tensor, origin: Tensor, bins: int, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same as :func:`fixed_pixels`, with one sample per cell that a bin covers, rounded up.

    The distance between samples is at most one cell. So along each axis, a bin reads a run of cells without gaps. The
    function adds up the weights of each cell before it multiplies the two axes.
    """
    axes = []
    for axis, extent in enumerate((width, height)):
        # The limit matters only for a box that extends far beyond its level, or contains NaN or Inf.
        count = (sides[:, axis] / bins).ceil().nan_to_num(0).clamp(min=0).minimum(extent + 1).long()  # (R,)
        divisor = count.clamp(min=1)[:, None, None]
        step = torch.arange(int(F.pad(count, (0, 1), value=1).amax()), device=corner.device)
        point = sample_points(corner[:, axis], sides[:, axis], bins, step, divisor)
        low, high, low_weight, high_weight = neighbours(point, extent)
        used = (step < count[:, None, None]) / divisor  # (R, 1, samples)
        axes.append(_merge(torch.cat([low, high], dim=-1), torch.cat([low_weight * used, high_weight * used], dim=-1)))
    (x, run_x, x_weight), (y, run_y, y_weight) = axes
    lengths = (run_y[:, :, None] * run_x[:, None, :]).flatten()  # (R * bins * bins,)
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    bag = torch.arange(len(lengths), device=corner.device).repeat_interleave(lengths)  # (cells of all bins,)
    tap = torch.arange(len(bag), device=corner.device) - offsets[bag]
    roi = bag // (bins * bins)
    row, column = bag // bins, roi * bins + bag % bins  # index into (R * bins): position of the bin along y and x
    run = run_x.flatten()[column]
    down = tap // run
    right = tap - down * run
    index = origin[roi] + (y.flatten()[row] + down) * width[roi] + x.flatten()[column] + right
    return index.int(), y_weight.flatten(0, 1)[row, down] * x_weight.flatten(0, 1)[column, right], offsets.int()


def _merge(cells: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first cell (R, bins) and length (R, bins) of each run, and its weights (R, bins, longest run).

    Args:
        cells, weight: (R, bins, cells); entries with weight zero do not count.
    """
    unused = weight == 0
    first = cells.masked_fill(unused, torch.iinfo(cells.dtype).max).amin(dim=-1, keepdim=True)
    place = (cells - first).masked_fill(unused, 0)
    run = (place + 1).masked_fill(unused, 0).amax(dim=-1)  # (R, bins)
    longest = int(F.pad(run.flatten(), (0, 1), value=1).amax())
    merged = weight.new_zeros((*run.shape, longest)).scatter_add_(-1, place, weight)
    return first.squeeze(-1), run, merged

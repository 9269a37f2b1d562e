"""RoIAlign as one operator, ``rcnn::align_regions``, which an exporter translates.

B images, S RoIs per image, C channels, r bins per side.
"""

from torch import Tensor

from detection.ops.operators import operator, shape_of
from detection.ops.roi_align import roi_align


@operator
def align_regions(
    features: list[Tensor],
    strides: list[int],
    boxes: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Return what :func:`~detection.ops.roi_align.roi_align` returns, contiguous."""
    return roi_align(features, strides, boxes, output_size, sampling_ratio, aligned).contiguous()


@shape_of(align_regions)
def _(
    features: list[Tensor],
    strides: list[int],
    boxes: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return features[0].new_empty((*boxes.shape[:2], features[0].shape[1], output_size, output_size))

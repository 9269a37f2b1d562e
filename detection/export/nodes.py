"""The toolkit's operators in standard nodes of ONNX: NonMaxSuppression, TopK and RoiAlign.

B images, N boxes, K classes, L lists, S RoIs per image.  Only :mod:`.onnx_file` imports this module, as it needs
onnxscript. Each function takes the values and numbers of an operator, and adds nodes to the program.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from onnxscript import opset18 as op

import detection.export.align
import detection.ops.keypoints
import detection.ops.selection  # noqa: F401  # registers the operators
from detection.export.keypoint_nodes import decode_keypoints

LEAST = -3.0e38
"""Below every finite score, above -inf."""
EVERY = 2**31 - 1
"""As the largest number of boxes: no limit."""


def nms(boxes: Any, scores: Any, threshold: float) -> Any:
    """Return which boxes survive, (L, N) bool, as :func:`detection.ops.nms.nms`."""
    found = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, _whole(1)), _whole(EVERY), _real(threshold), _real(LEAST))
    place = op.Gather(found, _whole(0, 2), axis=1)  # list and box; the class between them is always 0
    marks = op.ScatterND(op.Expand(_whole(0), op.Shape(scores)), place, op.Expand(_whole(1), _length(found)))
    return op.Cast(marks, to=9)  # bool


def select_detections(
    boxes: Any,
    scores: Any,
    score_threshold: float,
    iou_threshold: float,
    num: int,
    soft_sigma: float = 0.0,
    across_classes: bool = False,
) -> tuple[Any, Any, Any, Any]:
    """Return boxes, scores, labels and index, as :func:`detection.ops.selection.select_detections`."""
    if soft_sigma > 0:
        raise ValueError("soft-NMS has no node in ONNX; set soft_sigma to 0 and export again")
    batch, boxes_per_image, classes = (op.Shape(scores, start=k, end=k + 1) for k in range(3))
    own_boxes = boxes.shape[2] != 1  # a box for each class
    if across_classes:
        lists, rank = _one_list(boxes, scores, own_boxes)
    else:
        by_class = op.Transpose(scores, perm=[0, 2, 1])  # (B, K, N)
        if own_boxes:
            rows = op.Concat(_whole(-1), boxes_per_image, _whole(4), axis=0)
            lists = op.Reshape(op.Transpose(boxes, perm=[0, 2, 1, 3]), rows)  # (B * K, N, 4)
            rank = op.Reshape(by_class, op.Concat(_whole(-1), _whole(1), boxes_per_image, axis=0))
        else:
            lists, rank = op.Squeeze(boxes, _whole(2)), by_class
    found = op.NonMaxSuppression(lists, rank, _whole(EVERY), _real(iou_threshold), _real(score_threshold))
    kept = op.ScatterND(op.Expand(_real(-1.0), op.Shape(rank)), found, op.GatherND(rank, found))
    if not across_classes:
        kept = op.Transpose(op.Reshape(kept, op.Concat(batch, classes, boxes_per_image, axis=0)), perm=[0, 2, 1])
    kept = op.Pad(op.Reshape(kept, op.Concat(batch, _whole(-1), axis=0)), _whole(0, 0, 0, num), _scalar(-1.0))
    top, place = op.TopK(kept, _whole(num), axis=1)  # of equal scores, the first box and class come first
    real = op.GreaterOrEqual(top, _scalar(0.0))
    place = op.Min(place, op.Sub(op.Mul(boxes_per_image, classes), _whole(1)))
    index = op.Div(place, classes)
    box = op.GatherElements(
        op.Reshape(boxes, op.Concat(batch, _whole(-1), _whole(4), axis=0)),
        op.Expand(op.Unsqueeze(place if own_boxes else index, _whole(2)), op.Concat(batch, _whole(num, 4), axis=0)),
        axis=1,
    )
    return (
        op.Where(op.Unsqueeze(real, _whole(2)), box, _real(0.0)),
        op.Where(real, top, _real(0.0)),
        op.Where(real, op.Sub(place, op.Mul(index, classes)), _whole(-1)),
        op.Where(real, index, _whole(0)),
    )


def align_regions(
    features: Sequence[Any], strides: Sequence[int], boxes: Any, output_size: int, sampling_ratio: int, aligned: bool
) -> Any:
    """Return (B, S, C, r, r), as :func:`detection.ops.roi_align.roi_align`: each level pools its own RoIs."""
    first, last = (round(math.log2(strides[i])) for i in (0, -1))
    batch, regions = (op.Shape(boxes, start=k, end=k + 1) for k in range(2))
    flat = op.Reshape(boxes, _whole(-1, 4))
    images = op.Unsqueeze(op.Range(_count(0), op.Squeeze(batch), _count(1)), _whole(1))
    image = op.Reshape(op.Expand(images, op.Concat(batch, regions, axis=0)), _whole(-1))
    level = _level(flat, first, last)
    pooled, places = [], []
    for k in range(last - first + 1):
        place = op.Reshape(op.NonZero(op.Equal(level, _real(float(k)))), _whole(-1))
        mode = "half_pixel" if aligned else "output_half_pixel"
        some = op.RoiAlign(
            features[k],
            op.Gather(flat, place),
            op.Gather(image, place),
            coordinate_transformation_mode=mode,
            output_height=output_size,
            output_width=output_size,
            sampling_ratio=sampling_ratio,
            spatial_scale=1 / strides[k],
        )
        pooled.append(some)
        places.append(place)
    rows, place = op.Concat(*pooled, axis=0), op.Concat(*places, axis=0)
    back = op.ScatterElements(place, place, op.Range(_count(0), op.Squeeze(_length(place)), _count(1)), axis=0)
    return op.Reshape(op.Gather(rows, back), op.Concat(batch, regions, op.Shape(rows, start=1), axis=0))


def translations() -> Mapping[Any, Callable[..., Any]]:
    """Return the function for each operator, as ``custom_translation_table`` of ``torch.onnx.export``."""
    operators = torch.ops.rcnn
    return {
        operators.nms.default: nms,
        operators.select_detections.default: select_detections,
        operators.align_regions.default: align_regions,
        operators.decode_keypoints.default: decode_keypoints,
    }


def _one_list(boxes: Any, scores: Any, own_boxes: bool) -> tuple[Any, Any]:
    """Return one list of all boxes and classes per image: boxes (B, N * K, 4) and scores (B, 1, N * K)."""
    if not own_boxes:
        boxes = op.Expand(boxes, op.Concat(op.Shape(scores), _whole(4), axis=0))
    rows = op.Shape(scores, start=0, end=1)
    lists = op.Reshape(boxes, op.Concat(rows, _whole(-1, 4), axis=0))
    return lists, op.Reshape(scores, op.Concat(rows, _whole(1, -1), axis=0))


def _level(boxes: Any, first: int, last: int) -> Any:
    """Return the level of each box (R, 4), from 0, as float: :func:`detection.ops.roi_align.assign_levels`."""
    low, high = op.Split(boxes, axis=1, num_outputs=2)
    size = op.Sqrt(op.ReduceProd(op.Sub(high, low), _whole(1), keepdims=0))
    octaves = op.Div(op.Log(op.Div(size, _real(224.0))), _real(math.log(2)))
    level = op.Sub(op.Floor(op.Add(op.Add(octaves, _real(4.0)), _real(1e-6))), _real(float(first)))
    return op.Max(op.Min(level, _real(float(last - first))), _real(0.0))


def _length(x: Any) -> Any:
    return op.Shape(x, start=0, end=1)


def _whole(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _count(value: int) -> Any:
    return op.Constant(value_int=value)


def _real(*values: float) -> Any:
    return op.Constant(value_floats=list(values))


def _scalar(value: float) -> Any:
    return op.Constant(value_float=value)

"""The search for keypoints in heatmaps, ``rcnn::decode_keypoints``, in standard nodes of ONNX.

Bicubic interpolation is a product of matrices, as in :mod:`.full_masks`, with PyTorch's parameter of -0.75. The size
of the result differs from box to box, so a Loop computes one box after the other.

R boxes   N keypoints   m side of a heatmap   h x w pixels of a box.
"""

from typing import Any

from onnxscript import BOOL, FLOAT, INT64, graph, opset18, script

op: Any = opset18  # its type hints do not know what the script turns into nodes


@script(default_opset=op)
def decode_keypoints(heatmaps: FLOAT, boxes: FLOAT) -> FLOAT:
    """Return x, y and score of each keypoint, (R, N, 3), as :func:`detection.ops.keypoints.decode_keypoints`.

    Args:
        heatmaps: (R, N, m, m) logits.
        boxes: (R, 4).
    """
    each = op.Concat(op.Shape(heatmaps, start=1, end=2), op.Constant(value_ints=[-1]), axis=0)
    side = op.Shape(heatmaps, start=3, end=4)
    cells = op.Cast(side, to=1)
    wider = op.Pad(heatmaps, op.Constant(value_ints=[0, 0, 2, 2, 0, 0, 2, 2]), mode="edge")
    last = op.Squeeze(cells) + 2.0
    places = op.Unsqueeze(op.Range(op.Constant(value_float=-2.0), last, op.Constant(value_float=1.0)), 0)

    @graph()
    def of_box(number: INT64, go_on: BOOL):  # type: ignore[no-untyped-def]
        wide = op.Gather(wider, number)
        box = op.Gather(boxes, number)
        low, high = op.Split(box, num_outputs=2)
        sides = op.Max(high - low, 1.0)
        whole = op.Ceil(sides)
        width, height = op.Split(whole, num_outputs=2)
        columns = op.Range(op.Constant(value_float=0.0), op.Squeeze(width), op.Constant(value_float=1.0))
        rows = op.Range(op.Constant(value_float=0.0), op.Squeeze(height), op.Constant(value_float=1.0))
        x = (columns + 0.5) * (cells / width) - 0.5
        y = (rows + 0.5) * (cells / height) - 0.5
        t = op.Abs(op.Unsqueeze(op.Concat(x, y, axis=0), op.Constant(value_ints=[1])) - places)
        near = (t * 1.25 - 2.25) * t * t + 1.0
        far = ((t * -0.75 + 3.75) * t - 6.0) * t + 3.0
        weights = op.Where(t <= 1.0, near, op.Where(t < 2.0, far, t * 0.0))  # (w + h, m + 4)
        wide_by = op.Cast(width, to=7)
        zero = op.Constant(value_ints=[0])
        along = op.Slice(weights, zero, wide_by, zero)
        down = op.Slice(weights, wide_by, op.Shape(weights, start=0, end=1), zero)
        resized = op.MatMul(op.MatMul(down, wide), op.Transpose(along, perm=[1, 0]))
        pixels = op.Reshape(resized, each)
        best = op.ReduceMax(pixels, op.Constant(value_ints=[1]), keepdims=1)
        place = op.ArgMax(pixels, axis=1, keepdims=1)
        centre = op.Cast(op.Concat(op.Mod(place, wide_by), op.Div(place, wide_by), axis=1), to=1) + 0.5
        ones = op.Constant(value_ints=[1, 2])
        inner = op.Slice(wide, op.Constant(value_ints=[2, 2]), op.Constant(value_ints=[-2, -2]), ones)
        shares = op.Exp(op.Reshape(inner, each) - best)
        score = 1.0 / op.ReduceSum(shares, op.Constant(value_ints=[1]), keepdims=1)
        found = op.Concat(low + centre * (sides / whole), score, axis=1)
        return op.Identity(go_on), found

    return op.Loop(op.Squeeze(op.Shape(boxes, start=0, end=1)), True, body=of_box)

"""The parity gate catches an export with one broken operator, whichever it is, in every kind of detector."""

from unittest.mock import patch

import pytest
import torch.nn.functional as F

from detection import fast
from detection.export.align import align_regions
from detection.export.forms.rpn import top_of
from detection.export.gate import run_gate
from detection.export.images import synthetic_images
from detection.export.loading import of_session
from detection.export.program import exportable
from detection.ops import boxes as box_ops
from detection.ops.centres import boxes_around
from detection.ops.nms import nms
from detection.ops.selection import select_detections
from tests.support.exported_models import MODELS, Session

TWO_STAGE = ("mask_rcnn", "cascade")


def shifted(features, strides, boxes, output_size, sampling_ratio, aligned):
    """Half a cell off."""
    return align_regions(features, strides, boxes, output_size, sampling_ratio, not aligned)


def stricter(boxes, scores, threshold):
    """The threshold of the RPN's NMS is too small."""
    return nms(boxes, scores, threshold / 10)


def selects(change):
    """Return an operator that changes its arguments: iou threshold and number of detections."""

    def select(boxes, scores, score_threshold, iou_threshold, num, *rest):
        iou_threshold, fewer = change(iou_threshold, num)
        found = select_detections(boxes, scores, score_threshold, iou_threshold, fewer, *rest)
        short = num - fewer
        pads = [(0, 0, 0, short), (0, short), (0, short), (0, short)]
        values = [0, 0, -1, 0]
        return tuple(F.pad(x, pad, value=value) for x, pad, value in zip(found, pads, values, strict=True))

    return select


def fewer(logits, deltas, anchors, outside, num):
    """Most of the RPN's best anchors are lost."""
    top, delta, anchor = top_of(logits, deltas, anchors, outside, num)
    return top.masked_fill(top <= top[:, num // 100, None], -float("inf")), delta, anchor


def wider(deltas, anchors, *arguments, **named):
    """Boxes are one percent too wide."""
    found = box_ops_decode(deltas, anchors, *arguments, **named)
    grown = (found[..., 2:] - found[..., :2]) * 0.005
    return found + F.pad(grown, (2, 0)) - F.pad(grown, (0, 2))


def farther(points, sides):
    """Sides are one percent too far."""
    return boxes_around(points, sides * 1.01)


IMAGES = ("no object", "a thousand objects", "batch of three, 1", "one color")
box_ops_decode = box_ops.decode
SELECT = "detection.ops.selection.select_detections"
BROKEN = {
    "RoIAlign": {"detection.export.forms.regions.align_regions": shifted},
    "NMS": {SELECT: selects(lambda iou, num: (iou / 10, num))},
    "NMS of the RPN": {"detection.export.forms.rpn.nms": stricter},
    "TopK": {SELECT: selects(lambda iou, num: (iou, num // 2))},
    "TopK of the RPN": {"detection.export.forms.rpn.top_of": fewer},
    "decode": {
        "detection.ops.boxes.decode": wider,
        "detection.models.fcos.boxes_around": farther,
        "detection.models.task_aligned.boxes_around": farther,
    },
    "resize": {},
    "normalisation": {},
}


class BrokenSession(Session):
    def __init__(self, model, of, patches):
        super().__init__(model, of)
        self.patches = [patch(name, new) for name, new in patches.items()]

    def run(self, images, sizes):
        for one in self.patches:
            one.start()
        try:
            return super().run(images, sizes)
        finally:
            for one in self.patches:
                one.stop()


def exported(model, patches):
    return of_session(BrokenSession(exportable(model), model, patches), "file")


def used_by(name, broken):
    """Whether a kind of detector has the operator."""
    return name in TWO_STAGE or ("RPN" not in broken and (broken != "RoIAlign" or name == "task_aligned"))


SLOW = ("cascade", "fcos", "task_aligned")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS]
)
def named(request):
    model = fast.convert(MODELS[request.param]()).eval()
    model.test_size = (96, 160)
    images = [one for one in synthetic_images(model) if one[0] in IMAGES]
    return request.param, model, images


def test_a_correct_export_passes(named):
    _, model, images = named
    gate = run_gate(model, exported(model, {}), images, "test")
    assert gate.passed, gate.line()


@pytest.mark.parametrize("broken", BROKEN)
def test_an_export_with_a_broken_operator_fails(named, broken):
    name, model, images = named
    if not used_by(name, broken):
        pytest.skip("this detector does not use the operator")
    theirs = exported(model, BROKEN[broken])
    if broken == "resize":
        theirs.resize = "pillow"
    elif broken == "normalisation":
        theirs.session.model.pixel_mean = theirs.session.model.pixel_mean.flip(0)
    gate = run_gate(model, theirs, images, "test")
    assert not gate.passed, gate.line()

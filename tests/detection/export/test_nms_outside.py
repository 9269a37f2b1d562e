"""An export without its last NMS gives the same detections, and its thresholds can change."""

from dataclasses import replace

import pytest
import torch

from detection import fast, predict
from detection.export.folder import about
from detection.export.forms import to_candidates
from detection.export.gate import run_gate
from detection.export.images import synthetic_images
from detection.export.loading import FIXED, of_session
from detection.export.options import ExportOptions
from detection.export.program import check_exportable, export_program, exportable
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.cascade import CascadeConfig
from detection.models.fpn import FPNConfig
from tests.support.exported_models import BODY, MODELS, Session, spread


def two_stage(cascade=None):
    torch.manual_seed(0)
    head = BoxHeadConfig(hidden=32, score_threshold=0.1, detections=10)
    model = build_detector(3, BODY, FPNConfig(channels=16), box_head=head, cascade=cascade)
    for stage in model.box_head.stages if cascade else [model.box_head]:
        spread(stage.logits, 1.5)
        spread(stage.deltas, 1.0)
    return model


BOXES = {
    "faster_rcnn": two_stage,
    "cascade": lambda: two_stage(CascadeConfig()),
    "retinanet": MODELS["retinanet"],
    "fcos": MODELS["fcos"],
}


@pytest.fixture(params=BOXES)
def both(request):
    """A detector, and its export without NMS, which PyTorch computes."""
    model = fast.convert(BOXES[request.param]()).eval()
    model.test_size = (96, 160)

    class Candidates(Session):
        def run(self, images, sizes):
            return super().run(images, sizes)[:2]

    session = Candidates(to_candidates(exportable(model)), model)
    session.metadata["export"] = about(model, ExportOptions(nms="outside"))
    return model, of_session(session, "file")


def test_it_passes_the_gate(both):
    model, exported = both
    images = [one for one in synthetic_images(model) if one[0] in ("one object", "batch of three, 1", "odd sizes")]
    gate = run_gate(model, exported, images, "test")
    assert gate.passed, gate.line()
    assert sum(one.found for one in gate.differences) > 10


def test_settings_of_the_nms_can_change_and_others_cannot(both, pixels):
    _, exported = both
    config = exported.last_head.config
    for changes in ({"nms_threshold": 0.1}, {"soft_sigma": 0.5}, {"detections": 3}, {"score_threshold": 0.4}):
        for one in both:
            one.last_head.config = replace(one.last_head.config, **changes)
        ours, theirs = (predict(one, pixels, 0.0) for one in both)
        assert ours.labels.tolist() == theirs.labels.tolist()
        for one in both:
            one.last_head.config = replace(one.last_head.config, **{name: getattr(config, name) for name in changes})
    with pytest.raises(ValueError, match=FIXED):
        exported.last_head.config = replace(config, min_size=3.0)


@pytest.mark.slow
def test_it_can_be_traced():
    program = export_program(BOXES["retinanet"](), "outside")
    boxes, scores = program.module(check_guards=False)(
        torch.zeros(1, 3, 128, 256, dtype=torch.uint8), torch.tensor([[100, 200]])
    )
    assert boxes.shape == (*scores.shape[:2], 1, 4)
    assert scores.shape[2] == 3


def test_masks_and_refined_boxes_need_the_nms_inside():
    with pytest.raises(ValueError, match="masks need the boxes after the NMS"):
        check_exportable(MODELS["mask_rcnn"](), "outside")
    model = two_stage()
    model.box_head.config = replace(model.box_head.config, refinements=1)
    with pytest.raises(ValueError, match="refines boxes after the NMS"):
        check_exportable(model, "outside")

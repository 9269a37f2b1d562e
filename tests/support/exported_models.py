"""Tiny detectors with detections, one of each kind, and a session that computes with PyTorch."""

import json
import subprocess
import venv
from importlib.util import find_spec
from pathlib import Path

import torch

from backbones import BackboneConfig
from detection.checkpoint import describe_model
from detection.export import standalone
from detection.export.outputs import output_names
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.cascade import CascadeConfig
from detection.models.fcos import FCOSConfig
from detection.models.fpn import FPNConfig
from detection.models.keypoint_head import KeypointHeadConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.object_masks import ObjectMaskConfig
from detection.models.point_head import PointHeadConfig
from detection.models.retinanet import RetinaNetConfig
from detection.models.rpn import RPNConfig
from detection.models.semantic_head import SemanticHeadConfig
from detection.models.task_aligned import TaskAlignedConfig
from detection.structures import Detections
from tests.support.detectors import make_tiny

BODY = BackboneConfig("resnet18", norm="group", width=16)
FPN3 = FPNConfig(channels=16, extra="conv", finest=3)
ONE_STAGE = {"convs": 1, "score_threshold": 0.05, "candidates": 50, "detections": 20}


def mask_rcnn(norm="group"):
    model = make_tiny(norm)
    spread(model.box_head.logits, 1.5)
    spread(model.box_head.deltas, 1.0)
    spread(model.mask_head.logits, 2.0)
    return model


def retinanet():
    torch.manual_seed(0)
    anchors = AnchorConfig(sizes=(8, 16, 32, 64, 128))
    model = build_detector(3, BODY, FPN3, retinanet=RetinaNetConfig(anchors=anchors, prior=0.3, **ONE_STAGE))
    spread(model.head.logits, 0.5)
    spread(model.head.deltas, 0.5)
    return model


def fcos():
    torch.manual_seed(0)
    model = build_detector(3, BODY, FPN3, fcos=FCOSConfig(norm=None, prior=0.3, **ONE_STAGE))
    spread(model.head.logits, 0.5)
    spread(model.head.sides, 0.5)
    torch.nn.init.ones_(model.head.sides.bias)
    return model


def cascade():
    """A Cascade Mask R-CNN with a mask head per stage."""
    torch.manual_seed(0)
    model = build_detector(
        3,
        BODY,
        FPNConfig(channels=16),
        RPNConfig(AnchorConfig(sizes=(8, 16, 32, 64, 128)), proposals_test=40),
        BoxHeadConfig(hidden=32, score_threshold=0.0, detections=10),
        MaskHeadConfig(convs=1, channels=16),
        cascade=CascadeConfig(mask_per_stage=True),
    )
    for stage in model.box_head.stages:
        spread(stage.logits, 1.5)
        spread(stage.deltas, 1.0)
    for head in model.mask_head.stages:
        spread(head.logits, 2.0)
    return model


def task_aligned():
    """A task-aligned detector with masks."""
    torch.manual_seed(0)
    branch = ObjectMaskConfig(convs=1, channels=16, side=14)
    config = TaskAlignedConfig(prior=0.3, masks=True, mask_branch=branch, **ONE_STAGE)
    model = build_detector(3, BODY, FPN3, task_aligned=config)
    spread(model.head.logits, 0.5)
    spread(model.head.sides, 2.0)
    spread(model.head.masks.controller, 0.5)
    return model


def two_stage(**heads):
    """A detector of two stages with other heads."""
    torch.manual_seed(0)
    rpn = RPNConfig(AnchorConfig(sizes=(8, 16, 32, 64, 128)), proposals_test=40)
    box_head = BoxHeadConfig(hidden=32, score_threshold=0.1, detections=10)
    model = build_detector(3, BODY, FPNConfig(channels=16), rpn, box_head, **heads)
    spread(model.box_head.logits, 1.5)
    spread(model.box_head.deltas, 1.0)
    return model


def keypoint_rcnn(pixel_corners=False):
    config = KeypointHeadConfig(keypoints=5, convs=1, channels=16, pixel_corners=pixel_corners)
    model = two_stage(keypoint_head=config)
    spread(model.keypoint_head.heatmaps, 1.0)
    return model


def pointrend():
    config = PointHeadConfig(
        channels=16, hidden=32, layer_channels=16, resolution=6, coarse=7, subdivisions=3, subdivision_points=64
    )
    model = two_stage(point_head=config)
    spread(model.point_head.coarse.logits, 2.0)
    spread(model.point_head.point.logits, 2.0)
    return model


def semantic_fpn():
    torch.manual_seed(0)
    model = build_detector(5, BODY, FPNConfig(channels=16), semantic_head=SemanticHeadConfig(channels=64))
    spread(model.semantic_head.logits, 2.0)
    return model


def panoptic_fpn():
    semantic = SemanticHeadConfig(channels=64, stuff=("sky", "road"), stuff_ids=(5, 6), stuff_area=64, score=0.2)
    model = two_stage(mask_head=MaskHeadConfig(convs=1, channels=16), semantic_head=semantic)
    spread(model.mask_head.logits, 2.0)
    spread(model.semantic_head.logits, 2.0)
    return model


class Session:
    """Computes with PyTorch instead of an engine.

    Args:
        model: what computes; the same as ``of`` by default.
        of: the detector of the metadata.
    """

    engine = "test"

    def __init__(self, model, of=None):
        self.model, of = model.eval(), of or model
        self.of = of
        info = json.loads(json.dumps(describe_model(of, of.configs)))
        self.metadata = {
            "rcnn": info,
            "export": {"stride": of.stride, "channels": 3, "outputs": list(output_names(of))},
            "gate": {"passed": True},
        }

    def run(self, images, sizes):
        with torch.no_grad():
            found = self.model(torch.from_numpy(images), torch.from_numpy(sizes))
        if isinstance(found, Detections):
            found = [getattr(found, name) for name in output_names(self.of)]
        return [value.numpy() for value in found]


def program_of(session, folder: Path, monkeypatch) -> standalone.Model:
    """Return the program of an export's folder, for which the session computes the model."""
    (folder / "model.json").write_text(json.dumps(session.metadata))
    monkeypatch.setattr(standalone, "load", lambda *_: lambda given: session.run(**given))
    return standalone.Model(folder)


def spread(layer, factor):
    """Widen the outputs of an untrained layer, so that detections differ."""
    with torch.no_grad():
        layer.weight.mul_(factor / layer.weight.std() / layer.weight[0].numel() ** 0.5)


def without_torch(place: Path) -> Path:
    """Make a virtual environment with numpy, OpenCV and ONNX Runtime alone, and return its Python."""
    venv.create(place, symlinks=True, with_pip=False)
    site = next(place.glob("lib/python*/site-packages"))
    for name in ("numpy", "cv2", "onnxruntime"):
        source = Path(find_spec(name).origin).parent
        (site / name).symlink_to(source)
        for libraries in source.parent.glob(f"{'opencv*' if name == 'cv2' else name}.libs"):
            (site / libraries.name).symlink_to(libraries)
    python = place / "bin" / "python"
    check = subprocess.run([python, "-c", "import numpy, cv2, onnxruntime, torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in check.stderr
    return python


MODELS = {
    "mask_rcnn": mask_rcnn,
    "cascade": cascade,
    "retinanet": retinanet,
    "fcos": fcos,
    "task_aligned": task_aligned,
}
HEADS = {
    "keypoint_rcnn": keypoint_rcnn,
    "pointrend": pointrend,
    "semantic_fpn": semantic_fpn,
    "panoptic_fpn": panoptic_fpn,
}
"""Detectors whose heads return more than boxes and masks of a fixed form."""

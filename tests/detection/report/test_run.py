"""The detections of a model in a data set do not depend on the batches."""

import numpy as np
import torch

from backbones import BackboneConfig
from detection.coco.annotations import load_annotations
from detection.evaluation.coco import CocoEvaluator
from detection.inference.detect import detect as detect_images
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.report.run import detect, detect_looking
from detection.shapes import write_shapes


def test_looking_longer_is_in_the_precision_that_the_report_tells(tmp_path):
    root = write_shapes(tmp_path, train=1, val=1, size=(40, 50))
    annotations = load_annotations(root / "annotations" / "instances_val.json")
    model = build_detector(len(annotations.categories), BackboneConfig("resnet10", width=8), FPNConfig(channels=16))
    model.test_size = (64, 128)
    seen = []

    def look(image):
        seen.append(torch.is_autocast_enabled("cpu"))
        return detect_images(model, [image])[0]

    for precision in ("fp32", "bf16"):
        evaluator = CocoEvaluator(annotations.to_coco(), ("bbox",))
        detect_looking(model, annotations, root / "val", evaluator, look, precision)
    assert seen == [False, True]


def test_images_of_all_sizes_in_batches_give_what_they_give_alone(tmp_path):
    """Group norm sees the padding, of which an image has more beside a larger one."""
    root = write_shapes(tmp_path, train=1, val=8, size=(40, 110))
    annotations = load_annotations(root / "annotations" / "instances_val.json")
    sizes = {tuple(size) for size in annotations.sizes.tolist()}
    torch.manual_seed(0)
    model = build_detector(
        len(annotations.categories),
        BackboneConfig("resnet10", norm="group", width=8),
        FPNConfig(channels=16),
        box_head=BoxHeadConfig(hidden=16, score_threshold=0.0),
    )
    model.test_size = (64, 128)
    found = []
    for batch_size in (1, 4):
        evaluator = CocoEvaluator(annotations.to_coco(), ("bbox",))
        detect(model, annotations, root / "val", evaluator, batch_size)
        found.append(evaluator.results("bbox"))
    alone, together = (np.array([[r["image_id"], r["category_id"], r["score"], *r["bbox"]] for r in f]) for f in found)
    assert len(sizes) > 4
    assert len(alone) == len(together) > 100
    # Those of almost the same score may change places.
    distance = np.abs(alone[:, None] - together[None]).max(axis=2)
    assert distance.min(axis=0).max() < 1e-3
    assert distance.min(axis=1).max() < 1e-3

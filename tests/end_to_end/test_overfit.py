"""Ten images are learnt by heart: whatever is wrong between files and detections keeps a model from that."""

import numpy as np
import pytest
import torch

from backbones import BackboneConfig
from detection.coco.annotations import Annotations, load_annotations
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.data.transforms import Resize
from detection.evaluation.coco import CocoEvaluator
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.rpn import RPNConfig
from detection.shapes import write_shapes

STEPS = 300


def overfit(data: CocoDataset, images: list[int]) -> dict[str, float]:
    """Metrics of a small Mask R-CNN on the images that it was trained on."""
    torch.manual_seed(0)
    annotations = data.annotations
    model = build_detector(
        len(annotations.categories),
        BackboneConfig("resnet18", norm="group"),
        FPNConfig(channels=128),
        RPNConfig(pre_nms_train=500, pre_nms_test=500, proposals_train=300, proposals_test=300),
        BoxHeadConfig(hidden=256, samples=128),
        MaskHeadConfig(convs=4, channels=128),
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-4, total_steps=STEPS, pct_start=0.1)
    samples = [data[i] for i in images]
    for step in range(STEPS):
        chosen = np.random.default_rng(step).permutation(len(samples))[:5]
        batch = collate([samples[i] for i in chosen])
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.stack(list(model.losses(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    evaluator = CocoEvaluator(annotations.to_coco())
    model.eval()
    with torch.inference_mode():
        for sample in samples:
            batch = collate([sample])
            evaluator.add(batch, model(batch.images, batch.sizes))
    return evaluator.evaluate()


@pytest.mark.slow
def test_ten_real_images(shared_data):
    folder = shared_data / "coco_mini"
    annotations = load_annotations(folder / "annotations/instances_val2017.json", need_masks=True)
    data = CocoDataset(annotations, folder / "val2017", [Resize(224, 384)], masks=True)
    metrics = overfit(data, [i for i in range(len(data)) if learnable(annotations, i)][:10])
    assert metrics["bbox/AP50"] > 0.95
    # Each class has a mask channel of its own, which learns from one or two objects here and takes longer.
    assert metrics["segm/AP50"] > 0.80


@pytest.mark.slow
def test_ten_drawn_images(tmp_path):
    write_shapes(tmp_path, train=10, val=1)
    annotations = load_annotations(tmp_path / "annotations/instances_train.json", need_masks=True)
    data = CocoDataset(annotations, tmp_path / "train", [Resize(224, 384)], masks=True)
    metrics = overfit(data, list(range(10)))
    assert metrics["bbox/AP50"] > 0.95
    assert metrics["segm/AP50"] > 0.90


def learnable(annotations: Annotations, index: int, side: float = 32) -> bool:
    """A few objects, none hidden in a crowd or, at the size used here, smaller than three cells of the features."""
    boxes = annotations.boxes(index)
    return 0 < len(boxes) <= 8 and not annotations.crowd(index).any() and (boxes[:, 2:] - boxes[:, :2]).min() >= side

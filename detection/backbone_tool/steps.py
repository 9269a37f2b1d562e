"""Training steps and inference of a detector on synthetic images, for benchmarks."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from detection.coco.annotations import load_annotations
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.data.transforms import Resize
from detection.engine.optim import OptimizerConfig, build_optimizer
from detection.fast.folding import folded
from detection.models.detector import Detector
from detection.shapes import write_shapes
from detection.structures import Batch, Detections


def synthetic_batch(size: int, number: int) -> Batch:
    """Return a batch of synthetic images with objects and masks.

    Args:
        size: shorter side of the images; the longer side is at most 1333/800 of it.
        number: number of images.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_shapes(Path(folder), train=40, val=1)
        annotations = load_annotations(Path(folder) / "annotations" / "instances_train.json", need_masks=True)
        dataset = CocoDataset(annotations, Path(folder) / "train", [Resize(size, size * 1333 // 800)], masks=True)
        filled = [i for i in range(len(dataset)) if len(annotations.boxes(i))]
        return collate([dataset[filled[i % len(filled)]] for i in range(number)])


class Steps:
    """A detector with the optimizer of training.

    Args:
        model: the detector.
        device: the device to run on.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(self, model: Detector, device: torch.device, precision: str) -> None:
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.half = device, precision == "bf16"
        config = OptimizerConfig(momentum=0.9, weight_decay=1e-4)
        self.optimizer = build_optimizer(self.model, config, lr=1e-5, fused=True)

    def train(self, batch: Batch) -> None:
        """Run one training step."""
        self.model.train()
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            losses = self.model.losses(_move(batch, self.device))
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()

    def evaluated(self) -> Detector:
        """Return a model in evaluation mode with the current weights."""
        self.model.eval()
        return folded(self.model).eval() if self.half else self.model

    @torch.inference_mode()
    def infer(self, model: Detector, batch: Batch) -> Detections:
        """Detect objects with the model from :meth:`evaluated`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            found: Detections = model(batch.images.to(self.device), batch.sizes.to(self.device))
        return found


def _move(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its targets on a device."""
    moved: Batch = tree_map(lambda x: x.to(device, non_blocking=True) if isinstance(x, Tensor) else x, batch)
    return moved

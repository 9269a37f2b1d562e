"""detectron2's Mask R-CNN, if it is installed; its inputs are lists of dicts with full-image masks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detection.structures import Batch
from tools.benchmark.contestants import Contestant, as_lists, spread_answers

try:
    from detectron2 import model_zoo
    from detectron2.layers import FrozenBatchNorm2d
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage
except ImportError as error:
    raise ImportError(f"--peer detectron2: import failed ({error}); install detectron2 or leave --peer out") from error

ZOO = "COCO-InstanceSegmentation/mask_rcnn_{}_FPN_{}x.yaml"
BACKBONES = {"resnet50": ZOO.format("R_50", 1), "resnet101": ZOO.format("R_101", 3)}
"""Configurations of its zoo, by the name of the backbone."""


class Detectron2(Contestant):
    """detectron2 with its own random weights: the amount of work is the same, the predictions differ."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lists: dict[int, list[dict[str, Any]]] = {}

    def train(self, batch: Batch) -> None:
        self.model.train()
        with self.autocast(), EventStorage():
            losses = self.model(self.lists(batch))
        self.update(losses)

    @torch.inference_mode()
    def infer(self, batch: Batch) -> Sequence[dict[str, Any]]:
        self.model.eval()
        with self.autocast():
            found: Sequence[dict[str, Any]] = self.model(self.lists(batch))
        return found

    def numbers(self, batch: Batch) -> list[int]:
        """Return the number of detections of each image."""
        return [len(found["instances"]) for found in self.infer(batch)]

    def lists(self, batch: Batch) -> list[dict[str, Any]]:
        """Return detectron2's inputs, made once for each batch; detectron2 moves them to the device."""
        key = id(batch.images)
        if key not in self._lists:
            self._lists[key] = [_as_dict(*one) for one in zip(*as_lists(batch), strict=True)]
        return self._lists[key]


def detectron2(backbone: str, device: torch.device, precision: str, batch: Batch) -> Detectron2:
    """Return its Mask R-CNN with frozen norms, two frozen stages, and the number of detections of a trained one.

    Raises:
        ValueError: the zoo has no configuration for the backbone.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"--peer detectron2: its zoo has {' and '.join(BACKBONES)}, not {backbone}")
    config = model_zoo.get_config(BACKBONES[backbone])
    config.MODEL.DEVICE = str(device)
    torch.manual_seed(0)
    model: nn.Module = build_model(config)
    for module in model.modules():  # the same variance as in the other contestants
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.fill_(1.5)
    peer = Detectron2(model, device, precision)
    spread_answers(model.roi_heads.box_predictor, lambda: peer.infer(batch))  # type: ignore[union-attr, arg-type]
    return peer


def _as_dict(image: Tensor, target: dict[str, Tensor]) -> dict[str, Any]:
    height, width = image.shape[1:]
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(target["boxes"])
    instances.gt_classes = target["labels"] - 1
    instances.gt_masks = BitMasks(target["masks"].bool())
    return {"image": (image * 255).byte(), "instances": instances, "height": height, "width": width}

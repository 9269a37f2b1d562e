"""The same detector in this toolkit and in torchvision, with the same weights, images and objects."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchvision.models.detection import KeypointRCNN as PeerKeypointRCNN
from torchvision.models.detection import MaskRCNN as PeerMaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from backbones import BackboneConfig
from detection import fast
from detection.convert import from_torchvision, torchvision_config
from detection.convert.one_stage import from_torchvision_one_stage
from detection.convert.settings import torchvision_keypoint_config
from detection.engine.clock import Clock
from detection.engine.optim import OptimizerConfig, build_optimizer
from detection.fast.folding import folded
from detection.fast.pasting import paste_masks
from detection.models.build import build_detector
from detection.models.detector import Detector
from detection.models.one_stage import OneStage
from detection.structures import IGNORE, Batch, Detections
from tools.benchmark import one_stage

CLASSES = 80
"""Number of classes; a Keypoint R-CNN has one, persons."""
KEYPOINTS = 17
SPREAD = {"cls_score": 2.0, "bbox_pred": 0.3}
"""Standard deviations to which outputs of an untrained network are scaled, so that it detects 100 objects."""

Mark = Callable[[str], None]
"""A function that is called with the name of each part of a step when the part begins."""


def _unmarked(part: str) -> None:
    pass


@dataclass
class Contestant:
    """A detector with an optimizer."""

    model: nn.Module
    device: torch.device
    precision: str

    def __post_init__(self) -> None:
        self.optimizer = self.sgd()

    def sgd(self) -> torch.optim.Optimizer:
        """Return PyTorch's SGD with momentum."""
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        return torch.optim.SGD(trainable, lr=1e-5, momentum=0.9, weight_decay=1e-4)

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def update(self, losses: dict[str, Tensor], mark: Mark = _unmarked) -> None:
        self.optimizer.zero_grad()
        mark("backward")
        torch.stack(list(losses.values())).sum().backward()
        mark("optimizer")
        self.optimizer.step()


class Ours(Contestant):
    """This toolkit: padded batches, channels-last layout, a fused optimizer."""

    def sgd(self) -> torch.optim.Optimizer:
        """Return the optimizer of this toolkit's training."""
        return build_optimizer(self.model, OptimizerConfig(momentum=0.9, weight_decay=1e-4), lr=1e-5, fused=True)

    def prepare(self) -> None:
        """Prepare the model for inference with the current weights."""
        self.model.eval()
        assert isinstance(self.model, Detector)
        self.prepared = folded(self.model) if self.precision == "bf16" else self.model

    def train(self, batch: Batch, mark: Mark = _unmarked) -> None:
        self.model.train()
        self.optimizer.zero_grad()  # before the forward pass, as DetectionModule does
        with self.autocast():
            mark("transfer")
            losses = self.model.losses(move(batch, self.device))  # type: ignore[operator]
        self.update(losses, mark)

    @torch.inference_mode()
    def infer(self, batch: Batch, mark: Mark = _unmarked) -> Detections:
        """Return detections and paste masks into full images, as the peers do."""
        self.prepared.eval()
        mark("transfer")
        with self.autocast():
            there = move(batch._replace(targets=None), self.device)
            found: Detections = self.prepared(there.images, there.sizes)
        mark("pasting")
        for i, (height, width) in enumerate(batch.sizes.tolist()):
            image = found.image(i)
            if image.masks is not None:
                paste_masks(image.masks, image.boxes, height, width)
        return found

    def numbers(self, batch: Batch) -> list[int]:
        """Return the number of detections of each image."""
        return [int((labels >= 0).sum()) for labels in self.infer(batch).labels]

    def shares(self, step: Callable[[Batch, Mark], object], batch: Batch) -> dict[str, float]:
        """Return the seconds of each part of a step (:meth:`train` or :meth:`infer`)."""
        model = self.prepared if step == self.infer else self.model
        assert isinstance(model, Detector)
        with Clock(model) as clock:
            step(batch, clock)
        return clock.seconds()


class Torchvision(Contestant):
    """torchvision: lists of images, and of dicts with full-image masks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lists: dict[int, tuple[list[Tensor], list[dict[str, Tensor]]]] = {}

    def train(self, batch: Batch) -> None:
        self.model.train()
        images, targets = self.lists(batch)
        with self.autocast():
            losses = self.model(images, targets)
        self.update(losses)

    @torch.inference_mode()
    def infer(self, batch: Batch) -> Sequence[dict[str, Tensor]]:
        self.model.eval()
        with self.autocast():
            found: Sequence[dict[str, Tensor]] = self.model(self.lists(batch)[0])
        return found

    def numbers(self, batch: Batch) -> list[int]:
        """Return the number of detections of each image."""
        return [len(found["labels"]) for found in self.infer(batch)]

    def lists(self, batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Return torchvision's inputs, made once for each batch, as the time of loading does not count here."""
        key = id(batch.images)
        if key not in self._lists:
            self._lists[key] = tree_map(pinned, as_lists(batch))
        images, targets = self._lists[key]
        to_device = partial(torch.Tensor.to, device=self.device, non_blocking=True)
        return (
            [to_device(image) for image in images],
            [{name: to_device(value) for name, value in target.items()} for target in targets],
        )


def pair(
    backbone: str, device: torch.device, precision: str, peer_precision: str, detector: str = "mask_rcnn"
) -> tuple[Ours, Torchvision]:
    """Return both detectors with the same random weights, frozen norms and two frozen stages, as for fine-tuning."""
    torch.manual_seed(0)
    own = BackboneConfig(backbone, norm="frozen", freeze=2)
    peer: nn.Module
    if detector in ("mask_rcnn", "keypoint_rcnn"):
        body = resnet_fpn_backbone(
            backbone_name=backbone, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
        )
        if detector == "mask_rcnn":
            peer, config = PeerMaskRCNN(body, CLASSES + 1), torchvision_config(1, True, own)
        else:
            peer = PeerKeypointRCNN(body, 2, num_keypoints=KEYPOINTS)
            config = torchvision_keypoint_config(KEYPOINTS, own)
    else:
        peer, config = one_stage.peer_and_config(detector, backbone, CLASSES)
    for module in peer.modules():  # without trained statistics, activations would grow with each block
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.fill_(1.5)
    # The images already have their final size.
    peer.transform.resize = lambda image, target=None: (image, target)  # type: ignore[method-assign, assignment]
    if peer_precision == "bf16":
        peer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classes = 1 if config.keypoint_head else CLASSES
    model = fast.convert(build_detector(classes, **vars(config)))
    ours = Ours(model.to(device, memory_format=torch.channels_last), device, precision)  # type: ignore[call-overload]
    return ours, Torchvision(peer.to(device), device, peer_precision)


def equalise(ours: Ours, theirs: Torchvision, batch: Batch) -> None:
    """Scale the outputs of both detectors like those of a trained one, and give both the same weights."""
    if isinstance(ours.model, OneStage):
        one_stage.spread_answers(theirs.model, theirs.lists(batch)[0])
        ours.model.load_state_dict(from_torchvision_one_stage(theirs.model.state_dict()))
    else:
        spread_answers(theirs.model.roi_heads.box_predictor, lambda: theirs.infer(batch))  # type: ignore[union-attr, arg-type]
        ours.model.load_state_dict(from_torchvision(theirs.model.state_dict()))
    ours.prepare()


def spread_answers(predictor: nn.Module, infer: Callable[[], object]) -> None:
    """Scale the layers of an untrained predictor that :data:`SPREAD` names."""
    for name, spread in SPREAD.items():
        layer: nn.Linear = getattr(predictor, name)
        outputs: list[Tensor] = []
        hook = layer.register_forward_hook(lambda _m, _i, out, into=outputs: into.append(out))
        infer()
        hook.remove()
        with torch.no_grad():
            layer.weight.mul_(spread / outputs[0].std())


def move(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its targets on a device."""
    moved: Batch = tree_map(lambda x: x.to(device, non_blocking=True) if isinstance(x, Tensor) else x, batch)
    return moved


def pinned(x: Any) -> Any:
    """Return a tensor in pinned memory if there is a GPU, as a data loader does."""
    return x.pin_memory() if isinstance(x, Tensor) and torch.cuda.is_available() else x


def as_lists(batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return images with values of 0..1, and for each ``boxes``, ``labels`` from 1, full-image ``masks``, keypoints."""
    assert batch.targets is not None
    assert batch.targets.masks is not None
    images, targets = [], []
    for i, (height, width) in enumerate(batch.sizes.tolist()):
        keep = (batch.targets.labels[i] != IGNORE) & ~batch.targets.crowd[i]
        boxes = batch.targets.boxes[i][keep]
        images.append(batch.images[i, :, :height, :width].float() / 255)
        masks = paste_masks((batch.targets.masks[i][keep] == 1).float(), boxes, height, width)
        target = {"boxes": boxes, "labels": batch.targets.labels[i][keep] + 1, "masks": masks.byte().contiguous()}
        if batch.targets.keypoints is not None:
            target["keypoints"] = batch.targets.keypoints[i][keep]
        targets.append(target)
    return images, targets

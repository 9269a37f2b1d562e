"""Faster detectors: heads of two stages read one table of the pyramid, and torch.compile sees a single graph."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detection.fast.levels import Levels, Pyramid, levels_from_maps, with_gradient_sum
from detection.fast.rpn import FastRPN
from detection.models.cascade import CascadeMaskRCNN, CascadeRCNN
from detection.models.detector import Detector
from detection.models.keypoint_head import KeypointRCNN
from detection.models.one_stage import OneStage
from detection.models.panoptic import PanopticFPN, SemanticFPN, WithSemanticHead
from detection.models.point_head import PointRend
from detection.models.rcnn import FasterRCNN, MaskRCNN, TwoStage
from detection.models.semantic_head import check_maps
from detection.structures import Targets

COMPILED_SHAPES = 64
"""Largest number of image shapes to compile, in training and in evaluation; PyTorch's default limit is 8."""


class ImageOutputs(NamedTuple):
    """Results that are computed from complete images; L levels of N_l anchors."""

    levels: Levels
    """P2..P6."""
    rpn: tuple[list[Tensor], list[Tensor]] | None
    """For each of L levels, objectness (B, N_l) and deltas (B, N_l, 4), float32, without gradient."""


class _FastDetector(Detector):
    _compiled: Callable[[Any, Tensor, Tensor], Any] | None = None
    _replays = False  # whether it replays CUDA graphs

    def normalise(self, images: Tensor, sizes: Tensor) -> Tensor:
        self.check_shape(images)
        batch, channels, height, width = images.shape
        # Rows that contain the channels of each pixel: long rows take a CPU a quarter of the time.
        x = images.to(self.pixel_mean.dtype).permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        if images.dtype == torch.uint16:
            x = x / 257
        mean, std = (values.flatten().repeat(width) for values in (self.pixel_mean, self.pixel_std))
        rows = torch.arange(height, device=images.device) < sizes[:, :1]  # (B, H)
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]  # (B, W)
        x = (x - mean).div_(std).mul_(rows[:, :, None]).mul_(columns.repeat_interleave(channels, dim=1)[:, None])
        return x.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def check_labels(self, targets: Targets | None) -> None:
        if targets is None or targets.labels.device.type == "cpu":  # the check would synchronise with a GPU
            super().check_labels(targets)


class _FastTwoStage(_FastDetector, TwoStage):
    def features(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        if self._replays:  # allows the graph to overwrite the results of its previous run
            torch.compiler.cudagraph_mark_step_begin()
        outputs = (self._compiled or image_outputs)(self, images, sizes)
        return Pyramid(with_gradient_sum(outputs.levels), outputs.rpn)


class _OneGraph(_FastDetector):
    """A detector whose backbone and pyramid compile together."""

    def features(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        if self._replays:  # allows the graph to overwrite the results of its previous run
            torch.compiler.cudagraph_mark_step_begin()
        return (self._compiled or pyramid)(self, images, sizes)


class FastOneStage(_OneGraph, OneStage):
    """:class:`~detection.models.one_stage.OneStage`, whose backbone and pyramid compile together."""


class FastFasterRCNN(_FastTwoStage, FasterRCNN):
    """:class:`~detection.models.rcnn.FasterRCNN` with one table of the pyramid for all heads."""


class FastMaskRCNN(_FastTwoStage, MaskRCNN):
    """:class:`~detection.models.rcnn.MaskRCNN` with one table of the pyramid for all heads."""


class FastKeypointRCNN(_FastTwoStage, KeypointRCNN):
    """:class:`~detection.models.keypoint_head.KeypointRCNN` with one table of the pyramid for all heads."""


class FastPointRend(_FastTwoStage, PointRend):
    """:class:`~detection.models.point_head.PointRend` with one table of the pyramid for all heads."""


class FastCascadeRCNN(_FastTwoStage, CascadeRCNN):
    """:class:`~detection.models.cascade.CascadeRCNN` with one table of the pyramid for all heads."""


class FastCascadeMaskRCNN(_FastTwoStage, CascadeMaskRCNN):
    """:class:`~detection.models.cascade.CascadeMaskRCNN` with one table of the pyramid for all heads."""


class _QuickCheck(WithSemanticHead):
    def check_semantic(self, targets: Targets | None) -> None:
        # A check of the labels would synchronise with a GPU.
        on_cpu = targets is None or targets.labels.device.type == "cpu"
        check_maps(targets, self.semantic_head.num_classes, values=on_cpu)


class FastSemanticFPN(_OneGraph, _QuickCheck, SemanticFPN):
    """:class:`~detection.models.panoptic.SemanticFPN`, whose backbone and pyramid compile together."""


class FastPanopticFPN(_FastTwoStage, _QuickCheck, PanopticFPN):
    """:class:`~detection.models.panoptic.PanopticFPN` with one table of the pyramid for all heads."""


def image_outputs(model: TwoStage, images: Tensor, sizes: Tensor) -> ImageOutputs:
    """Run all layers that process complete images: backbone, pyramid and RPN head."""
    # A function, not a method: a bound method in a copy of the model would use the weights of the original.
    levels = levels_from_maps(model.fpn(model.backbone(model.normalise(images, sizes))))
    if not isinstance(model.rpn, FastRPN):
        return ImageOutputs(levels, None)
    with torch.no_grad():
        return ImageOutputs(levels, model.rpn(levels.maps))


def pyramid(model: Detector, images: Tensor, sizes: Tensor) -> list[Tensor]:
    """Return the feature pyramid of images."""
    return model.fpn(model.backbone(model.normalise(images, sizes)))  # type: ignore[no-any-return]


def compile_model(model: nn.Module, backend: str = "inductor", graphs: bool = False) -> None:
    """Compile the layers that process complete images as one graph, for each shape of images.

    The later layers process little data, and NMS synchronises with the device.

    Args:
        model: a detector from :func:`detection.fast.convert`.
        backend: the backend of torch.compile.
        graphs: on CUDA, record a CUDA graph for each shape and replay it, including the backward pass. Each call
            overwrites the results and gradients of the previous one, so gradients cannot be accumulated over batches.

    Raises:
        ValueError: the model was not converted.
    """
    if not isinstance(model, _FastDetector):
        raise ValueError("model.compile needs a converted detector; set model.fast true, and do not set RCNN_FAST=0")
    # Dynamic shapes would need only one graph, but PyTorch did not finish a ResNet-18 in a quarter of an hour.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_SHAPES)
    mode = "reduce-overhead" if graphs else None
    dense = pyramid if isinstance(model, _OneGraph) else image_outputs
    model._compiled = torch.compile(dense, backend=backend, dynamic=False, fullgraph=True, mode=mode)
    model._replays = graphs

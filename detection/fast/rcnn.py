"""Two-stage detectors whose parts share one table of the pyramid, and compile together."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detection.fast.levels import Levels, Pyramid, as_levels, summing
from detection.fast.rpn import FastRPN
from detection.models.rcnn import FasterRCNN, MaskRCNN, TwoStage

COMPILED_SHAPES = 64
"""At most this many shapes of images are compiled, in training and in evaluation; PyTorch's own limit is 8."""


class ImageOutputs(NamedTuple):
    """What is computed of whole images; L levels of N_l anchors."""

    levels: Levels
    """P2..P6."""
    rpn: tuple[list[Tensor], list[Tensor]] | None
    """L times (B, N_l) objectness and (B, N_l, 4) deltas, float32, without gradient."""


class _FastTwoStage(TwoStage):
    _compiled: "Callable[[TwoStage, Tensor, Tensor], ImageOutputs] | None" = None
    _replays = False  # CUDA graphs of it

    def features(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        if self._replays:  # what was computed the time before may be overwritten
            torch.compiler.cudagraph_mark_step_begin()
        outputs = (self._compiled or image_outputs)(self, images, sizes)
        return Pyramid(summing(outputs.levels), outputs.rpn)

    def normalise(self, images: Tensor, sizes: Tensor) -> Tensor:
        self.check_shape(images)
        batch, channels, height, width = images.shape
        # Rows of pixels with their channels side by side: a CPU takes a quarter of the time for long rows.
        x = images.to(self.pixel_mean.dtype).permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        if images.dtype == torch.uint16:
            x = x / 257
        mean, std = (values.flatten().repeat(width) for values in (self.pixel_mean, self.pixel_std))
        rows = torch.arange(height, device=images.device) < sizes[:, :1]  # (B, H)
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]  # (B, W)
        x = (x - mean).div_(std).mul_(rows[:, :, None]).mul_(columns.repeat_interleave(channels, dim=1)[:, None])
        return x.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def check_labels(self, labels: Tensor) -> None:
        if labels.device.type == "cpu":  # a GPU would make the host wait for the answer
            super().check_labels(labels)


class FastFasterRCNN(_FastTwoStage, FasterRCNN):
    """:class:`~detection.models.rcnn.FasterRCNN`, with one table of the pyramid for all readers."""


class FastMaskRCNN(_FastTwoStage, MaskRCNN):
    """:class:`~detection.models.rcnn.MaskRCNN`, with one table of the pyramid for all readers."""


def image_outputs(model: TwoStage, images: Tensor, sizes: Tensor) -> ImageOutputs:
    """Return everything that works on whole images: backbone, pyramid and RPN head."""
    # A function, not a method: a copy of the model must not use the weights of the original.
    levels = as_levels(model.fpn(model.backbone(model.normalise(images, sizes))))
    if not isinstance(model.rpn, FastRPN):
        return ImageOutputs(levels, None)
    with torch.no_grad():
        return ImageOutputs(levels, model.rpn(levels.maps))


def compile_model(model: nn.Module, backend: str = "inductor", graphs: bool = False) -> None:
    """Compile what works on whole images as one graph, for each shape of images that the model meets.

    What comes after works on few numbers, and NMS asks the host how many.

    Args:
        model: from :func:`detection.fast.convert`.
        backend: of torch.compile.
        graphs: on CUDA, record what it launches for each shape and replay it, backward pass included. The next
            call then overwrites results and gradients of this one: gradients must not be summed over batches.

    Raises:
        ValueError: a model that was not converted.
    """
    if not isinstance(model, _FastTwoStage):
        raise ValueError("compiling needs the faster form of a detector; set model.fast, and not RCNN_FAST=0")
    # Open shapes would need no graph each, but PyTorch was not done with a ResNet-18 after a quarter of an hour.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_SHAPES)
    mode = "reduce-overhead" if graphs else None
    model._compiled = torch.compile(image_outputs, backend=backend, dynamic=False, fullgraph=True, mode=mode)
    model._replays = graphs

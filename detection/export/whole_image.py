"""Put the resizing before a detector's ONNX file, and the way back to the image after it.

B images of one size, C channels, H x W image, h x w canvas, D detections, m mask side.  Input: ``images``
(B, H, W, C) as decoded. Outputs: those of :mod:`.detector_file`, with boxes in pixels of the images.
"""

from typing import Any

import torch
from torch import Tensor, nn

from detection.export.full_masks import full_masks
from detection.export.onnx_file import converted
from detection.export.resizing import Resizing
from detection.export.tracing import MOST_IMAGES, quiet
from detection.fast.pasting import rounded_frames
from detection.models.detector import Detector
from detection.models.mask_forms import has_rounded_frames

MOST_SIDE = 2**15
"""Largest side of an image."""


class InImage(nn.Module):
    """Boxes and full masks in pixels of the images, from boxes in pixels of the canvas.

    Args:
        rounded: whether masks fill whole pixels around their boxes, as torchvision pastes them.
    """

    def __init__(self, rounded: bool) -> None:
        super().__init__()
        self.rounded = rounded

    def forward(
        self,
        images: Tensor,
        sizes: Tensor,
        boxes: Tensor,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return boxes (..., 4), and with masks (B, D, m, m) the full masks (B, D, H, W), too.

        Args:
            images: (B, H, W, C); only their size counts.
            sizes: (B, 2) height and width of the images on the canvas.
            boxes: (B, ..., 4).
            labels: (B, D); -1 on padding.
        """
        height, width = images.shape[1:3]
        sides = torch.stack([torch.scalar_tensor(side) for side in (width, height)])
        scale = (sides / sizes.flip(1)).repeat(1, 2)  # (B, 4)
        boxes = boxes * scale.view(-1, *[1] * (boxes.dim() - 2), 4)
        if masks is None or labels is None:
            return (boxes,)
        frames = rounded_frames(boxes, masks.shape[-1]) if self.rounded else boxes
        frames = torch.where((labels >= 0)[..., None], frames, 0)
        return boxes, full_masks(masks, frames, height, width)


def with_resizing(inner: Any, model: Detector, full: bool) -> Any:
    """Return an ONNX model that takes images as decoded.

    Args:
        inner: the ONNX model of the detector: ``images`` on their canvas and ``sizes`` to boxes, scores and more.
        full: whether to return the masks of whole images, too; ``inner`` returns boxes, scores, labels and masks.
    """
    before, after = _before(model), _after(inner, model, full)
    outputs = list(inner.graph.output[1:])
    _rename(before.graph, "before_", {name: name for name in ("images", "canvas", "sizes")})
    _rename(after.graph, "after_", {"boxes": "canvas_boxes", "in_image": "boxes"} | {x: x for x in SHARED})
    _rename(inner.graph, "", {"images": "canvas", "boxes": "canvas_boxes"})
    joined = type(inner)()
    joined.CopyFrom(inner)
    for field in ("node", "initializer", "input", "output", "value_info"):
        joined.graph.ClearField(field)
    for part in (before, inner, after):
        joined.graph.node.extend(part.graph.node)
        joined.graph.initializer.extend(part.graph.initializer)
    joined.graph.input.extend(before.graph.input)
    joined.graph.output.extend([after.graph.output[0], *outputs, *after.graph.output[1:]])
    return joined


SHARED = ("images", "sizes", "labels", "masks", "full_masks")
"""Names that the detector's part and the last part share."""


def _before(model: Detector) -> Any:
    """Return the part that resizes."""
    assert model.resize != "inside"
    resizing = Resizing(*model.test_size, model.resize, model.stride)
    images = torch.zeros((2, 50, 70, len(model.pixel_mean)), dtype=torch.uint16 if model.depth == 16 else torch.uint8)
    return _converted(resizing, {"images": images}, ["canvas", "sizes"])


def _after(inner: Any, model: Detector, full: bool) -> Any:
    """Return the part that leads back to the image."""
    images = torch.zeros((2, 50, 70, len(model.pixel_mean)), dtype=torch.uint8)
    shape = [one.dim_value for one in inner.graph.output[0].type.tensor_type.shape.dim[2:]]
    given = {"images": images, "sizes": torch.ones((2, 2), dtype=torch.int64), "boxes": torch.zeros((2, 5, *shape))}
    if full:
        side = inner.graph.output[3].type.tensor_type.shape.dim[3].dim_value
        given |= {"labels": torch.zeros((2, 5), dtype=torch.int64), "masks": torch.zeros((2, 5, side, side))}
    return _converted(InImage(has_rounded_frames(model)), given, ["in_image", "full_masks"][: 1 + full])


def _converted(module: nn.Module, given: dict[str, Tensor], outputs: list[str]) -> Any:
    """Return a module as an ONNX model, for images of any size, any batch and any number of boxes."""
    dim = torch.export.Dim
    batch, boxes = dim("batch", min=1, max=MOST_IMAGES), dim("boxes", min=1)
    sides = {1: dim("height", min=1, max=MOST_SIDE), 2: dim("width", min=1, max=MOST_SIDE)}
    free = {name: {0: batch} | (sides if name == "images" else {}) for name in given}
    for name in ("boxes", "labels", "masks"):
        if name in given:
            free[name] |= {1: boxes}
    with torch.no_grad(), quiet():
        program = torch.export.export(module, (), given, dynamic_shapes=free, strict=False)
    return converted(program, list(given), outputs)


def _rename(graph: Any, prefix: str, names: dict[str, str]) -> None:
    """Rename the values and nodes of a graph in place: some by name, the others with a prefix."""

    def renamed(name: str) -> str:
        return names.get(name, prefix + name) if name else name

    for node in graph.node:
        node.name = prefix + node.name
        for field in (node.input, node.output):
            field[:] = [renamed(name) for name in field]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, prefix, names)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = renamed(value.name)

"""Trace a detector with ``torch.export``, for any batch size and canvas.

B images, C channels, H x W canvas.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from detection import fast
from detection.export.forms import to_candidates, to_exportable
from detection.export.full_masks import full_masks
from detection.export.outputs import OBJECTS, output_names
from detection.export.tracing import MOST_IMAGES, traced
from detection.fast.pasting import rounded_frames
from detection.models.detector import Detector
from detection.models.keypoint_head import keypoint_config
from detection.models.mask_forms import has_rounded_frames, mask_config
from detection.models.panoptic import SemanticFPN, WithSemanticHead

MOST_CELLS = 512
"""Largest side of a canvas, in strides of the detector."""


class _Outputs(nn.Module):
    """The detector with a tuple as its result; with ``full``, its last entry are the masks of whole canvases."""

    def __init__(self, model: Detector, full: bool = False) -> None:
        super().__init__()
        self.model, self.full, self.names = model, full, output_names(model)

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        found = self.model(images, sizes)
        outputs = tuple(getattr(found, name) for name in self.names)
        if not self.full:
            return outputs
        side = found.masks.shape[-1]
        frames = rounded_frames(found.boxes, side) if has_rounded_frames(self.model) else found.boxes
        # A padded detection has an empty box, which torchvision's rule would enlarge.
        frames = torch.where((found.labels >= 0)[..., None], frames, 0)
        return (*outputs, full_masks(found.masks, frames, images.shape[2], images.shape[3]))


class _Candidates(nn.Module):
    """The boxes and scores of a detector before its last NMS: (B, N, K or 1, 4) and (B, N, K)."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = to_candidates(model)

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        found = self.model(images, sizes)
        return found.boxes, found.scores


def dtype_of(model: Detector, as_decoded: bool = False) -> torch.dtype:
    """Return the dtype of a detector's images: resizing with the method "tensor" leaves fractions."""
    if model.resize == "tensor" and not as_decoded:
        return torch.float32
    return torch.uint16 if model.depth == 16 else torch.uint8


def check_resizing(model: Detector, format: str) -> None:
    """Check that a file of a format can resize images as a detector does.

    Raises:
        ValueError: it cannot.
    """
    if format == "torch":
        raise ValueError("--preprocess inside: is for --format onnx, openvino")
    if keypoint_config(model) is not None or isinstance(model, WithSemanticHead):
        raise ValueError(
            "--preprocess inside: is for boxes and masks, not for keypoints and semantic maps; leave the option out"
        )
    if format == "openvino" and model.resize == "tensor":
        raise ValueError(
            "--preprocess inside: resize is tensor, whose sides need float64, which OpenVINO does not have; "
            "use --format onnx"
        )


def check_exportable(model: Detector, nms: str = "inside", masks: str = "frames") -> None:
    """Check what can be checked before the export.

    Raises:
        ValueError: a setting has no counterpart in ONNX, or a head has no form for export.
    """
    if masks == "full" and mask_config(model) is None:
        raise ValueError("--masks full: the detector predicts only boxes; leave the option out")
    if nms == "outside":
        check_nms_outside(model)
    elif not isinstance(model, SemanticFPN) and model.last_head.config.soft_sigma > 0:
        raise ValueError("soft-NMS has no counterpart in ONNX; set soft_sigma to 0, and export again")


def check_nms_outside(model: Detector) -> None:
    """Check that a detector can be exported without its last NMS.

    Raises:
        ValueError: it predicts masks, or refines its boxes.
    """
    others = [name for name in output_names(model) if name not in OBJECTS]
    if others:
        raise ValueError(f"--nms outside: {others[0]} need the boxes after the NMS; export with the NMS inside")
    if getattr(model.last_head.config, "refinements", 0):
        raise ValueError("--nms outside: the detector refines boxes after the NMS; set refinements to 0")


def export_program(model: Detector, nms: str = "inside", masks: str = "frames") -> Any:
    """Trace a detector for any batch size and canvas.

    Args:
        nms: ``inside``, or ``outside`` for boxes and scores before the last NMS.
        masks: ``frames``, or ``full`` to also return the masks of whole canvases.

    Returns:
        A ``torch.export.ExportedProgram`` with the toolkit's operators as nodes.

    Raises:
        ValueError: the detector has a part that cannot be traced.
    """
    check_exportable(model, nms, masks)
    stride, channels = model.stride, len(model.pixel_mean)
    largest = max(model.fpn.strides)
    sides = (3 * largest, 4 * largest)  # every level has several cells: the tracer treats a size of 1 as a constant
    images = torch.zeros((2, channels, *sides), dtype=dtype_of(model))
    sizes = torch.tensor([sides, sides])
    dim = torch.export.Dim
    batch, rows, columns = (
        dim("batch", min=1, max=MOST_IMAGES),
        dim("rows", max=MOST_CELLS),
        dim("columns", max=MOST_CELLS),
    )
    free = {0: batch, 2: stride * rows, 3: stride * columns}
    inner = exportable(model)
    form = _Outputs(inner, masks == "full") if nms == "inside" else _Candidates(inner)
    return traced(form, (images, sizes), (free, {0: batch}), "this detector cannot be traced for every image size")


def exportable(model: Detector) -> Detector:
    """Return a copy of a detector on the CPU, in evaluation mode, of which every part can be exported."""
    return to_exportable(fast.revert(copy.deepcopy(model)).cpu().eval())

"""Write a detector to an ONNX file: from images on their canvas to boxes, scores, labels and masks.

B images, C channels, H x W canvas, D detections, m mask side.  Inputs: ``images`` (B, C, H, W), ``sizes`` (B, 2) int64
height and width of each image at the top left of its canvas. B, H and W are free; H and W are multiples of the stride.
Outputs: ``boxes`` (B, D, 4), ``scores`` (B, D), ``labels`` (B, D), -1 on padding.
Heads add ``masks`` (B, D, m, m), ``keypoints`` (B, D, N, 3), ``semantic`` (B, K, H / 4, W / 4).
With full masks, ``full_masks`` (B, D, H, W) uint8.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from detection.checkpoint_files import replacing
from detection.export.extras import needed
from detection.export.options import ExportOptions
from detection.export.outputs import output_names
from detection.export.program import export_program, quiet
from detection.models.detector import Detector

OPSET = 18
"""Runs in ONNX Runtime, OpenVINO and TensorRT of today."""


def write_onnx(model: Detector, path: Path, options: ExportOptions) -> None:
    """Write a detector to an ONNX file, without metadata.

    Raises:
        ModuleNotFoundError: onnx or onnxscript is not installed.
        ValueError: as for :func:`export_program`.
        OSError: the file cannot be written.
    """
    needed("onnx", "onnxscript")
    resizes = options.preprocess == "inside"  # then the full masks follow the way back to the image
    program = export_program(model, options.nms, "frames" if resizes else options.masks)
    names = output_names(model, options.nms, options.masks == "full" and not resizes)
    found = converted(program, ["images", "sizes"], names)
    if resizes:
        from detection.export.whole_image import with_resizing

        found = with_resizing(found, model, options.masks == "full")
    path.write_bytes(found.SerializeToString())


def converted(program: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """Return a program of ``torch.export`` as an ONNX model with these names of inputs and outputs."""
    from detection.export.nodes import translations

    with torch.no_grad(), quiet():
        found = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=dict(translations()),
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
            optimize=False,  # takes as long as all the rest, and the engines do it themselves
        )
    assert found is not None
    return found.model_proto


def add_metadata(path: Path, entries: Mapping[str, Any]) -> None:
    """Write entries, as JSON, into the metadata of an ONNX file; an entry of the same name is replaced."""
    import onnx

    content = onnx.load(str(path))
    kept = {one.key: one.value for one in content.metadata_props}
    onnx.helper.set_model_props(content, kept | {name: json.dumps(value) for name, value in entries.items()})
    with replacing(path) as file:
        file.write(content.SerializeToString())

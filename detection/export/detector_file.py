"""Write a detector's file in a format: from images on their canvas to boxes, scores, labels and masks.

B images, C channels, H x W canvas, D detections, m mask side.  Inputs: ``images`` (B, C, H, W), ``sizes`` (B, 2) int64
height and width of each image at the top left of its canvas. B, H and W are free; H and W are multiples of the stride.
Outputs: ``boxes`` (B, D, 4), ``scores`` (B, D), ``labels`` (B, D), -1 on padding.
Heads add ``masks`` (B, D, m, m), ``keypoints`` (B, D, N, 3), ``semantic`` (B, K, H / 4, W / 4).
With full masks, ``full_masks`` (B, D, H, W) uint8.
"""

from pathlib import Path

from detection.export import torch_file
from detection.export.onnx_file import converted
from detection.export.options import ExportOptions
from detection.export.outputs import output_names
from detection.export.program import export_program
from detection.export.whole_image import with_resizing
from detection.export.writing import write_as
from detection.models.detector import Detector


def write_model(model: Detector, path: Path, options: ExportOptions) -> None:
    """Write the file of a detector, without metadata.

    Raises:
        ModuleNotFoundError: a package of the extra is not installed.
        ValueError: as for :func:`~detection.export.program.export_program`.
        OSError: the file cannot be written.
    """

    def write_onnx(file: Path) -> None:
        resizes = options.preprocess == "inside"  # then the full masks follow the way back to the image
        program = export_program(model, options.nms, "frames" if resizes else options.masks)
        names = output_names(model, options.nms, options.masks == "full" and not resizes)
        found = converted(program, ["images", "sizes"], names)
        if resizes:
            found = with_resizing(found, model, options.masks == "full")
        file.write_bytes(found.SerializeToString())

    def write_torch(file: Path) -> None:
        torch_file.save(export_program(model, options.nms, options.masks), file)

    write_as(options.format, path, write_onnx, write_torch)

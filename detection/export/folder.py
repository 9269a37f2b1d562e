"""Write an export: a folder with the model, its settings, the proof, and a program that runs it without PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detection.checkpoint import description
from detection.coco.keypoints import PIXEL_CENTRE
from detection.export import program
from detection.export.accuracy import Annotated
from detection.export.card import card
from detection.export.detector_file import write_model
from detection.export.full_masks import check_full
from detection.export.gate import Gate, run_gate
from detection.export.images import given_images, synthetic_images
from detection.export.loading import of_session
from detection.export.map_check import check_maps
from detection.export.options import ExportOptions
from detection.export.outputs import output_names
from detection.export.runtime import RunError, open_session
from detection.export.writing import check_folder, origin, write_folder
from detection.models.detector import Detector
from detection.models.mask_forms import has_pixel_corners, has_rounded_frames
from detection.models.panoptic import WithSemanticHead

PROGRAM = Path(__file__).with_name("standalone.py")
"""The program of the folder."""
MAP_PROGRAM = Path(__file__).with_name("standalone_maps.py")
"""The program that labels pixels, for a model with a semantic head."""


def export_folder(
    model: Detector,
    folder: str | Path,
    options: ExportOptions | None = None,
    data: Annotated | None = None,
    quantise: Callable[[Detector, Path], Gate] | None = None,
    configs: Any = None,
) -> tuple[Path, Gate]:
    """Write a detector to a folder that runs without PyTorch, and compare both on images.

    The folder has the model (``model.onnx``, or ``model.xml`` and ``model.bin``) and ``model.json``: classes,
    preprocessing, thresholds, checksums. ``card.md`` has the comparison, and ``predict.py`` runs it, if the file
    contains the NMS. ``maps.py`` labels the pixels, if there is a semantic head. The function replaces the files of an
    earlier export.

    Args:
        model: the detector.
        folder: it is created.
        options: what to write, and what to compare on; the defaults if None.
        data: annotated images; the gate compares AP on them, and the detections in some.
        quantise: replaces the file by one in INT8, and compares it; see :class:`~detection.export.int8.Quantiser`.
        configs: as for :func:`~detection.checkpoint.save_model`.

    Returns:
        The exported file, and the comparison. A file that did not pass is written, but ``load_model`` rejects it.

    Raises:
        ValueError: the detector cannot be exported, or an image cannot be read.
        ModuleNotFoundError: a package of the extra is not installed.
        OSError: a file cannot be written.
    """
    folder, options = Path(folder), options or ExportOptions()
    check_folder(folder, options.format)
    inside = options.preprocess == "inside"
    if inside:
        program.check_resizing(model, options.format)
    settings = {"rcnn": description(model, folder, configs), "export": about(model, options)}
    if options.images:
        named = given_images(options.images, len(model.pixel_mean), model.depth)
    else:
        named = synthetic_images(model, inside)
    named += data.samples() if data is not None else []
    programs = {}
    if options.format != "torch" and options.nms == "inside":
        programs = {"predict.py": PROGRAM} | ({"maps.py": MAP_PROGRAM} if isinstance(model, WithSemanticHead) else {})

    def proof(file: Path) -> Gate:
        return compared(model, file, named, data) if quantise is None else quantise(model, file)

    return write_folder(folder, settings, lambda file: write_model(model, file, options), proof, card, programs)


def compared(model: Detector, file: Path, images: Sequence[tuple[str, np.ndarray]], data: Annotated | None) -> Gate:
    """Run the parity gate on a file."""
    session = open_session(file, torch.get_num_threads())
    exported = of_session(session, file)
    gate = judge(model, exported, images, session.engine)
    if exported.full:
        gate = replace(gate, full=check_full(exported, images))
    return gate if data is None else replace(gate, accuracy=data.compare(model, exported))


def judge(model: Detector, exported: Detector, images: Sequence[tuple[str, np.ndarray]], engine: str) -> Gate:
    """Compare the detections of a detector and of its export, and their maps; see :func:`run_gate`."""
    gate = run_gate(model, exported, images, engine)
    if not isinstance(model, WithSemanticHead) or gate.failure is not None:
        return gate
    try:
        return replace(gate, maps=check_maps(model, exported, images))
    except RunError as error:
        return replace(gate, failure=str(error))


def about(model: Detector, options: ExportOptions) -> dict[str, Any]:
    """Return what a program must know to use the file, and what made it."""
    config = model.last_head.config
    return {
        **origin(model, options.format),
        "preprocess": options.preprocess,
        "nms": options.nms,
        "masks": options.masks,
        "outputs": list(output_names(model, options.nms, options.masks == "full")),
        "keypoint_shift": PIXEL_CENTRE * has_pixel_corners(model),
        "stride": model.stride,
        "channels": len(model.pixel_mean),
        "dtype": str(program.dtype_of(model, options.preprocess == "inside")).removeprefix("torch."),
        **{name: getattr(config, name, None) for name in ("score_threshold", "nms_threshold", "detections")},
        "rounded_frames": has_rounded_frames(model),
    }

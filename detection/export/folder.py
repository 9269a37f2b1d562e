"""Write an export: a folder with the model, its settings, the proof, and a program that runs it without PyTorch."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import detection
from detection.checkpoint import description
from detection.checkpoint_files import replacing
from detection.coco.keypoints import PIXEL_CENTRE
from detection.export import onnx_file, openvino_file, program, torch_file
from detection.export.accuracy import Annotated
from detection.export.card import card
from detection.export.extras import FOLDERS, check_packages
from detection.export.full_masks import check_full
from detection.export.gate import Gate, run_gate
from detection.export.images import given_images, synthetic_images
from detection.export.loading import checksum_of, checksum_of_weights, of_session
from detection.export.map_check import check_maps
from detection.export.options import ExportOptions
from detection.export.outputs import output_names
from detection.export.runtime import RunError, open_session
from detection.models.detector import Detector
from detection.models.mask_forms import has_pixel_corners, has_rounded_frames
from detection.models.panoptic import WithSemanticHead
from detection.provenance import installed

PROGRAM = Path(__file__).with_name("standalone.py")
"""The program of the folder."""
MAP_PROGRAM = Path(__file__).with_name("standalone_maps.py")
"""The program that labels pixels, for a model with a semantic head."""


def _write_openvino(model: Detector, path: Path, options: ExportOptions) -> None:
    file = path.with_name("model.onnx")
    onnx_file.write_onnx(model, file, options)
    openvino_file.write_openvino(file, path)
    file.unlink()


WRITERS: Mapping[str, tuple[tuple[str, ...], Any]] = {
    "onnx": (("model.onnx",), (onnx_file.write_onnx, onnx_file.add_metadata)),
    "torch": (("model.pt2",), (torch_file.write_torch, torch_file.add_metadata)),
    "openvino": (("model.xml", "model.bin"), (_write_openvino, openvino_file.add_metadata)),
}
"""For each format the files, and the functions that write them and their metadata."""


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
    format = options.format
    if format not in FOLDERS:
        raise ValueError(f"unknown format {format!r}; give one of {', '.join(FOLDERS)}")
    check_packages(format)
    if folder.suffix or folder.is_file():
        raise ValueError(f"{folder}: an {format} export is a folder; give a name without an ending")
    if options.preprocess == "inside":
        program.check_resizing(model, format)
    info = description(model, folder, configs)
    inside = options.preprocess == "inside"
    named = given_images(list(options.images), model) if options.images else synthetic_images(model, inside)
    named += data.samples() if data is not None else []
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial") as place:
        names, (write, add_metadata) = WRITERS[format]
        file = Path(place) / names[0]
        write(model, file, options)
        made = about(model, options)
        add_metadata(file, {"rcnn": info, "export": made})
        gate = compared(model, file, named, data) if quantise is None else quantise(model, file)
        add_metadata(file, {"gate": gate.summary()})
        checksums = {name: checksum_of(file.with_name(name)) for name in names}
        settings = {"rcnn": info, "export": made, "gate": gate.summary(), "files": checksums}
        for name in names:
            shutil.move(file.with_name(name), folder / name)
    size = sum((folder / name).stat().st_size for name in names)
    _write(folder / "model.json", json.dumps(settings, indent=1))
    _write(folder / "card.md", card(settings, size))
    if format != "torch" and options.nms == "inside":
        _write(folder / "predict.py", PROGRAM.read_text(encoding="utf-8"))
        if isinstance(model, WithSemanticHead):
            _write(folder / "maps.py", MAP_PROGRAM.read_text(encoding="utf-8"))
    return folder / names[0], gate


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
    packages = ("torch", *FOLDERS[options.format])
    return {
        "format": options.format,
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
        "opset": onnx_file.OPSET,
        "weights_sha256": checksum_of_weights(model),
        "versions": {"rcnn-toolkit": detection.__version__, **{name: installed(name) for name in packages}},
    }


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode("utf-8"))

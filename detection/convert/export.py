"""Export detectors: in torchvision's layout, or as a self-contained safetensors file.

A new format needs a module with a function, and a line in :data:`FORMATS`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from detection.checkpoint import description
from detection.checkpoint_files import replacing
from detection.convert.one_stage import to_torchvision_one_stage
from detection.convert.torchvision import to_torchvision
from detection.export.extras import FOLDERS
from detection.home import with_home
from detection.inference.info import kind_of
from detection.models.cascade import CascadeMaskRCNN, CascadeRCNN
from detection.models.detector import Detector
from detection.models.fcos import FCOSHead
from detection.models.one_stage import OneStage
from detection.models.panoptic import WithSemanticHead
from detection.models.roi_linear import as_linear


def save_safetensors(model: Detector, path: str | Path, configs: Mapping[str, Any] | None = None) -> None:
    """Write a detector to a safetensors file with its settings, class names, category IDs and preprocessing.

    The file's metadata holds them under ``rcnn`` as the JSON of :func:`~detection.checkpoint.describe_model`.
    :func:`~detection.convert.pretrained.load_pretrained` reads the file.

    Args:
        model: the detector.
        path: the file to write.
        configs: as for :func:`~detection.checkpoint.save_model`.

    Raises:
        ValueError: as for :func:`~detection.checkpoint.description`.
        OSError: as for :func:`~detection.checkpoint_files.replacing`.
    """
    info = description(model, path, configs)
    tensors = {name: value.contiguous() for name, value in as_linear(model.state_dict()).items()}
    content = save(tensors, metadata={"rcnn": json.dumps(info)})
    with replacing(Path(path)) as file:
        file.write(content)


def save_torchvision(model: Detector, path: str | Path) -> None:
    """Write a detector's weights in the layout of torchvision's ``*_resnet50_fpn`` or, with norms, ``*_v2``.

    The background comes first, then the classes in their order. Build torchvision's model with ``num_classes`` + 1.
    torchvision's FCOS has no factors of the levels (``level_scales``), and measures from the corner of a cell.

    Raises:
        ValueError: the detector has a part that torchvision's detectors do not have.
        OSError: as for :func:`~detection.checkpoint_files.replacing`.
    """
    if isinstance(model, CascadeRCNN | CascadeMaskRCNN | WithSemanticHead):
        raise ValueError(f"{path}: torchvision's layout has no {kind_of(model)}; export it as safetensors")
    state = model.state_dict()
    if isinstance(model, OneStage):
        converted = to_torchvision_one_stage(state)
        if isinstance(model.head, FCOSHead) and model.head.config.offset != 0:
            raise ValueError(
                f"{path}: torchvision's FCOS measures from the corner of a cell, this one from model.fcos.offset "
                f"{model.head.config.offset:g}; export it as safetensors"
            )
    else:
        converted = to_torchvision(state, 2 if "box_head.convs.1.weight" in state else 1)
    with replacing(Path(path)) as file:
        torch.save(converted, file)


@dataclass(frozen=True)
class Format:
    """A kind of file that :func:`export` writes."""

    ending: str
    """Of the file's name."""
    write: Callable[[Detector, Path], None]


FORMATS = {
    "safetensors": Format(".safetensors", save_safetensors),
    "torchvision": Format(".pth", save_torchvision),
}
"""By the name that a user types."""


def export(model: Detector, path: str | Path, format: str | None = None) -> Path:
    """Write a detector to one file for other programs, and return its path.

    Args:
        format: a name of :data:`FORMATS`; None chooses it by the ending of the file's name.

    Raises:
        ValueError: an unknown format, a file name with the ending of another one, or as the format's function.
        OSError: as :func:`~detection.checkpoint_files.replacing`.

    Example:
        >>> export(load_model("runs/first"), "detector.safetensors")  # doctest: +SKIP
    """
    path = Path(with_home(str(path)))
    check_format(path, format)
    FORMATS[format or _by_ending()[path.suffix]].write(model, path)
    return path


def check_format(path: Path, format: str | None = None) -> None:
    """Check that a format is known and goes with the ending of a file's name.

    Raises:
        ValueError: it does not; with all formats.
    """
    known = ", ".join(f"{name} ({one.ending})" for name, one in FORMATS.items())
    if format is not None and format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; give one of {known}, or for a folder {', '.join(FOLDERS)}")
    if format is None and path.suffix not in _by_ending():
        raise ValueError(f"{path}: the ending names no format; give one of {known}")
    if format is not None and path.suffix != FORMATS[format].ending:
        raise ValueError(f"{path}: the name of a {format} file must end in {FORMATS[format].ending}")


def _by_ending() -> dict[str, str]:
    return {one.ending: name for name, one in FORMATS.items()}

"""Write the folder of an export, of a detector or of a classifier: the model, its proof, its settings, its programs."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn

import detection
from detection.checkpoint_files import replacing
from detection.export import onnx_file, openvino_file, torch_file
from detection.export.extras import FOLDERS, check_packages
from detection.export.loading import checksum_of, checksum_of_weights
from detection.provenance import installed

FILES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
    "torch": ("model.pt2",),
}
"""The files of each format."""
METADATA: Mapping[str, Callable[[Path, Mapping[str, Any]], None]] = {
    "onnx": onnx_file.add_metadata,
    "openvino": openvino_file.add_metadata,
    "torch": torch_file.add_metadata,
}
"""The function of each format that writes metadata into its file."""


class Proof(Protocol):
    """The comparison of a model and its export."""

    def summary(self) -> dict[str, Any]:
        """Return plain values, for the metadata of the file."""


P = TypeVar("P", bound=Proof)


def check_folder(folder: Path, format: str) -> None:
    """Check that a folder can get an export in a format.

    Raises:
        ValueError: the format is unknown, or the name is that of a file.
        ModuleNotFoundError: a package of the extra is not installed.
    """
    if format not in FOLDERS:
        raise ValueError(f"unknown format {format!r}; give one of {', '.join(FOLDERS)}")
    check_packages(format)
    if folder.suffix or folder.is_file():
        raise ValueError(f"{folder}: an {format} export is a folder; give a name without an ending")


def origin(model: nn.Module, format: str) -> dict[str, Any]:
    """Return what made the file of a model, for its metadata."""
    packages = ("torch", *FOLDERS[format])
    return {
        "format": format,
        "opset": onnx_file.OPSET,
        "weights_sha256": checksum_of_weights(model),
        "versions": {"rcnn-toolkit": detection.__version__, **{name: installed(name) for name in packages}},
    }


def write_as(format: str, path: Path, write_onnx: Callable[[Path], None], write_torch: Callable[[Path], None]) -> None:
    """Write a model's file in a format, without metadata.

    Args:
        path: of the first file of the format.
        write_onnx, write_torch: write the model as an ONNX file, and as a program of ``torch.export``.
    """
    if format == "torch":
        write_torch(path)
        return
    file = path.with_name("model.onnx")
    write_onnx(file)
    if format == "openvino":
        openvino_file.write_openvino(file, path)
        file.unlink()


def write_folder(
    folder: Path,
    settings: Mapping[str, Any],
    write: Callable[[Path], None],
    judge: Callable[[Path], P],
    card: Callable[[Mapping[str, Any], int], str],
    programs: Mapping[str, Path],
) -> tuple[Path, P]:
    """Write a model, compare it, and write ``model.json``, ``card.md`` and programs beside it.

    Args:
        folder: it is created; files of an earlier export are replaced.
        settings: the entries ``rcnn`` and ``export`` of ``model.json``.
        write: writes the model's file, without metadata.
        judge: compares the file with the model; it may replace the file.
        card: returns the card for the content of ``model.json`` and the bytes of the model's files.
        programs: the source of each program, by its name in the folder.

    Returns:
        The exported file, and the comparison.

    Raises:
        OSError: a file cannot be written.
    """
    format = settings["export"]["format"]
    names, add_metadata = FILES[format], METADATA[format]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial") as place:
        file = Path(place) / names[0]
        write(file)
        add_metadata(file, settings)
        proof = judge(file)
        add_metadata(file, {"gate": proof.summary()})
        checksums = {name: checksum_of(file.with_name(name)) for name in names}
        settings = {**settings, "gate": proof.summary(), "files": checksums}
        for name in names:
            shutil.move(file.with_name(name), folder / name)
    size = sum((folder / name).stat().st_size for name in names)
    _write(folder / "model.json", json.dumps(settings, indent=1))
    _write(folder / "card.md", card(settings, size))
    for name, source in programs.items():
        _write(folder / name, source.read_text(encoding="utf-8"))
    return folder / names[0], proof


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode("utf-8"))

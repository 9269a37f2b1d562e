"""Write a detector to OpenVINO's files: ``model.xml`` with the network, ``model.bin`` with the weights."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detection.export.scopes import module_of


def write_openvino(onnx: Path, path: Path) -> None:
    """Convert an ONNX file to OpenVINO's files, in float32, without metadata.

    The name of each node begins with that of its module.

    Args:
        onnx: the ONNX file, which the function changes.
        path: of the ``.xml``; the ``.bin`` lies beside it.
    """
    import openvino
    from onnx import load, save

    content = load(str(onnx))
    for node in content.graph.node:  # OpenVINO keeps names of nodes, and not their modules
        node.name = f"{module_of(node)}/{node.name}"
    save(content, str(onnx))
    openvino.save_model(openvino.convert_model(onnx), path, compress_to_fp16=False)


def add_metadata(path: Path, entries: Mapping[str, Any]) -> None:
    """Write entries, as JSON, into the metadata of the ``.xml``; an entry of the same name is replaced."""
    import openvino

    content = openvino.Core().read_model(path)
    for name, value in entries.items():
        content.set_rt_info(json.dumps(value), [name])
    with tempfile.TemporaryDirectory(dir=path.parent) as place:  # OpenVINO still reads from the old files
        file = Path(place) / path.name
        openvino.save_model(content, file, compress_to_fp16=False)
        del content
        for suffix in (".bin", ".xml"):
            os.replace(file.with_suffix(suffix), path.with_suffix(suffix))

"""Convert a program of ``torch.export`` to an ONNX model, and write metadata into its file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from detection.checkpoint_files import replacing
from detection.export.extras import needed
from detection.export.tracing import quiet

OPSET = 18
"""Runs in ONNX Runtime, OpenVINO and TensorRT of today."""


def converted(program: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """Return a program of ``torch.export`` as an ONNX model with these names of inputs and outputs.

    Raises:
        ModuleNotFoundError: onnx or onnxscript is not installed.
    """
    needed("onnx", "onnxscript")
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

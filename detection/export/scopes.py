"""Which module of a detector a node of its ONNX file comes from."""

from typing import Any

SCOPES = "pkg.torch.onnx.name_scopes"
"""The entry of a node that names its module."""


def module_of(node: Any) -> str:
    """Return the name of the detector's module that made a node; the name of the node if none did."""
    scopes = next((one.value for one in node.metadata_props if one.key == SCOPES), "")
    modules = [part.strip(" '[]") for part in scopes.split(",") if "model." in part]
    return modules[-1].removeprefix("model.") if modules else str(node.name)

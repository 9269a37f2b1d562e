"""Packages of the extras ``onnx``, ``openvino`` and ``nncf``, which are imported only where an export needs them."""

from importlib.util import find_spec

EXTRA = {"onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx", "openvino": "openvino", "nncf": "nncf"}
"""The extra of the toolkit that installs each package."""

FOLDERS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"), "torch": ()}
"""Formats that are folders, and the packages that they need."""


RESIZING = ("onnx", "openvino")
"""Formats whose files can resize images."""


def check_packages(format: str) -> None:
    """Raise a ModuleNotFoundError if a package that a format needs is not installed."""
    needed(*FOLDERS[format])


def needed(*packages: str) -> None:
    """Check that packages are installed.

    Raises:
        ModuleNotFoundError: one is not; the message says how to install it.
    """
    for name in packages:
        if find_spec(name) is None:
            extra = EXTRA[name]
            raise ModuleNotFoundError(f"{name} is not installed: pip install 'rcnn-toolkit[{extra}]'", name=name)

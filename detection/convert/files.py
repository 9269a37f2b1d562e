"""Read weight files of other toolkits without running code from them."""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from backbones import torch_files
from backbones.pretrained import is_state_dict
from detection.data.errors import first_line
from detection.documents import parse_json
from detection.foreign import shown
from detection.home import with_home


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors in a file, and its other entries.

    Args:
        path: a ``.pkl`` file with arrays (detectron2's zoo), ``.safetensors``, or a file of ``torch.save``.

    Returns:
        state: tensors by name.
        rest: all other entries of the file.

    Raises:
        ValueError: the file does not exist, is cut short or damaged, or holds no weights. Or it holds other objects
            than tensors, arrays and plain values.
    """
    path = Path(with_home(path))
    if not path.is_file():
        raise ValueError(f"weights: {path} does not exist; check the path")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _unpickle(path) if path.suffix == ".pkl" else _torch_load(path)
    key = next((k for k in ("state_dict", "model") if isinstance(content.get(k), Mapping)), None)
    state = content if key is None else content[key]
    rest = {} if key is None else {k: v for k, v in content.items() if k != key}
    tensors = {name: _tensor(value, f"{path}: {name}") for name, value in state.items()}
    if not tensors or not is_state_dict(tensors):
        raise ValueError(f"weights: {path} holds no state dict (a mapping of names to tensors)")
    return tensors, rest


def _torch_load(path: Path) -> Mapping[str, Any]:
    try:
        content = torch_files.read(path)
    except torch_files.ForeignError as error:
        raise ValueError(
            f"weights: {path} holds more than tensors ({error.name}), and reading that could run code. If you trust "
            "the file, save only its tensors: "
            "torch.save(torch.load(FILE, weights_only=False)['state_dict'], 'weights.pth')"
        ) from None
    except torch_files.DamagedError as error:
        raise ValueError(f"weights: {path}: {error}") from None
    except torch_files.FileError as error:
        raise ValueError(f"weights: {path} is incomplete or not a weight file ({error})") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"weights: {path} holds a {type(content).__name__} instead of a state dict")
    return content


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            rest = {key: parse_json(metadata[key].encode(), f"{path}, {key}") for key in metadata if key == "rcnn"}
            return {name: file.get_tensor(name) for name in file.keys()}, rest  # noqa: SIM118
    except Exception as error:  # safetensors does not export its error class
        raise ValueError(
            f"weights: {path} is incomplete or not a safetensors file ({first_line(error)[:150]})"
        ) from None


def _tensor(value: Any, name: str) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind not in "fiub":
        raise ValueError(f"weights: {name[:200]} is an array of {value.dtype.name}; weights must be numbers")
    return torch.from_numpy(value)


def _unpickle(path: Path) -> Mapping[str, Any]:
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file, path.stat().st_size).load()
    except _ForeignError as error:
        raise ValueError(
            f"weights: {path} holds more than arrays ({shown(error)}), and reading that could run code; save only its "
            "arrays"
        ) from None
    except Exception as error:  # a broken pickle can raise anything
        raise ValueError(
            f"weights: {path} is incomplete or not a pickle of weights ({first_line(error)[:150]})"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"weights: {path} holds a {type(content).__name__} instead of a state dict")
    return content


class _ForeignError(Exception):
    """A pickle names an object other than arrays and plain containers."""


def _latin1(text: str, encoding: str) -> bytes:
    """Encode text as pickle protocol 2 does for bytes; other codecs raise an error."""
    if encoding != "latin1":
        raise _ForeignError(f"codec {encoding}")
    return text.encode("latin1")


def _empty_array(*_: Any) -> np.ndarray:
    """Return the empty array with which NumPy starts to unpickle; the shape comes later, together with the bytes."""
    return np.empty(0, np.int8)


class _ArraysOnly(pickle._Unpickler):
    """An unpickler that accepts only NumPy arrays and plain containers.

    It uses Python's implementation. The one in C would allocate memory for any number of objects that a file names.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file, encoding="latin1")
        self._size = size

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 moved its internals, so files use either name.
        home = module.replace("numpy._core", "numpy.core")
        allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): _empty_array,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
            ("numpy.core.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): _latin1,
        }
        try:
            return allowed[home, name]
        except KeyError:
            raise _ForeignError(f"{module}.{name}"[:60]) from None

    def load_bytearray8(self) -> None:
        """Read bytes; reject a length beyond the file's size."""
        count = int.from_bytes(self.read(8), "little")  # type: ignore[attr-defined]
        if count > self._size:
            raise pickle.UnpicklingError("an array is larger than the file")
        self.append(bytearray(self.read(count)))  # type: ignore[attr-defined]

    def load_build(self) -> None:
        """Set the content of arrays; reject attributes of a dict, which could hide its methods."""
        if isinstance(self.stack[-2], dict):  # type: ignore[attr-defined]
            raise pickle.UnpicklingError("it sets attributes of a dict")
        super().load_build()  # type: ignore[misc]

    dispatch = pickle._Unpickler.dispatch | {  # type: ignore[attr-defined, assignment]
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.BUILD[0]: load_build,
    }

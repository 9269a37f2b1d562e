"""Files of weights as other toolkits write them, read without running anything that is in them."""

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
    """The tensors in a file, and what else it holds.

    Args:
        path: ``.pkl`` (detectron2's zoo: arrays), ``.safetensors``, or whatever ``torch.load`` reads.

    Returns:
        state: tensors by name.
        rest: all other entries of the file.

    Raises:
        ValueError: no such file; one that is cut off, damaged, or holds no weights; or one with more than tensors,
            arrays and plain values in it, of which nothing is run.
    """
    path = Path(with_home(path))
    if not path.is_file():
        raise ValueError(f"weights: no file {path}")
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
            f"weights: {path} holds more than tensors ({error.name}); reading that runs code, so it is refused. If you "
            "trust the file, save its tensors alone: "
            "torch.save(torch.load(FILE, weights_only=False)['state_dict'], 'weights.pth')"
        ) from None
    except torch_files.DamagedError as error:
        raise ValueError(f"weights: {path}: {error}") from None
    except torch_files.FileError as error:
        raise ValueError(f"weights: {path} is cut off or no file of weights ({error})") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"weights: {path} holds a {type(content).__name__}, no weights")
    return content


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            rest = {key: parse_json(metadata[key].encode(), f"{path}, {key}") for key in metadata if key == "rcnn"}
            return {name: file.get_tensor(name) for name in file.keys()}, rest  # noqa: SIM118
    except Exception as error:  # its own error class is not exported
        raise ValueError(f"weights: {path} is cut off or no safetensors file ({first_line(error)[:150]})") from None


def _tensor(value: Any, name: str) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind not in "fiub":
        raise ValueError(f"weights: {name[:200]} is an array of {value.dtype.name}, not of numbers")
    return torch.from_numpy(value)


def _unpickle(path: Path) -> Mapping[str, Any]:
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file, path.stat().st_size).load()
    except _ForeignError as error:
        raise ValueError(
            f"weights: {path} holds more than arrays ({shown(error)}); reading that runs code, so it is refused"
        ) from None
    except Exception as error:  # a broken pickle can raise anything
        raise ValueError(f"weights: {path} is cut off or no pickle of weights ({first_line(error)[:150]})") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"weights: {path} holds a {type(content).__name__}, no weights")
    return content


class _ForeignError(Exception):
    """A pickle names something that is no part of an array or a plain container."""


def _latin1(text: str, encoding: str) -> bytes:
    """What protocol 2 needs to write bytes down; no other codec."""
    if encoding != "latin1":
        raise _ForeignError(f"codec {encoding}")
    return text.encode("latin1")


def _empty_array(*_: Any) -> np.ndarray:
    """What NumPy begins an array with; its shape comes with its bytes, never before them."""
    return np.empty(0, np.int8)


class _ArraysOnly(pickle._Unpickler):
    """Knows NumPy's arrays and ordered dicts, and nothing else.

    It is the reader in Python, as that in C takes memory for any number that a pickle counts its objects by.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file, encoding="latin1")
        self._size = size

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 moved its internals; files of both ages name them.
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
        """Bytes, as many as the file can have."""
        count = int.from_bytes(self.read(8), "little")  # type: ignore[attr-defined]
        if count > self._size:
            raise pickle.UnpicklingError("an array is larger than the file")
        self.append(bytearray(self.read(count)))  # type: ignore[attr-defined]

    def load_build(self) -> None:
        """The content of arrays; attributes of a dict could hide its methods."""
        if isinstance(self.stack[-2], dict):  # type: ignore[attr-defined]
            raise pickle.UnpicklingError("it sets attributes of a dict")
        super().load_build()  # type: ignore[misc]

    dispatch = pickle._Unpickler.dispatch | {  # type: ignore[attr-defined, assignment]
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.BUILD[0]: load_build,
    }

"""Read files that ``torch.save`` wrote, also a stranger's: look at the whole file first, then read it.

Such a file is a zip archive: one pickle says which tensors there are, and each tensor's bytes are another member.
:func:`outline` reads the pickle alone and imports nothing that it names. Its tensors lie on the meta device, so
that shapes can be compared before they take memory.
"""

import io
import math
import pickle
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import torch
from torch import Tensor

MEMBERS = r"[^/]+/(data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d+)"
"""What ``torch.save`` puts into an archive."""
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How files begin that PyTorch before 1.6 wrote; they are no archives and have no checksums."""
PICKLE_BYTES = 64 << 20
"""The pickle of a large detector and its optimizer has less than one percent of this."""
DEPTH = 64
"""Containers within containers."""
VALUES = 2_000_000
"""Values in all containers, each counted as often as it can be reached."""
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class FileError(ValueError):
    """A file cannot be read; the message is the reason alone, to be put behind the file's name."""


class ForeignError(FileError):
    """A file names a Python object that is no part of a tensor."""

    def __init__(self, name: str) -> None:
        self.name = ascii(name[:60])[1:-1]  # of a stranger: a terminal must not follow it
        super().__init__(f"it holds more than tensors and plain values ({self.name})")


class DamagedError(FileError):
    """A part of a file is not what it was when it was written."""


def read(path: str | Path, map_location: Any = "cpu") -> Any:
    """The content of a file, tensors and plain values.

    PyTorch writes a checksum of every tensor, but does not compare it when it reads; this function does.

    Raises:
        FileError: as :func:`outline`; or a part is damaged.
        OSError: the file cannot be opened.
    """
    outline(path)
    return load(path, map_location)


def load(path: str | Path, map_location: Any = "cpu") -> Any:
    """As :func:`read`, of a file that :func:`outline` has accepted."""
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise FileError(_reason(error)) from error
    if damaged := damaged_part(path):
        raise DamagedError(damaged)
    return content


def outline(path: str | Path) -> Any:
    """The content of a file with every tensor on the meta device; nothing is imported, run or allocated.

    Raises:
        ForeignError: the file names other objects than tensors and plain containers.
        FileError: not a file of ``torch.save``; cut off; compressed, encrypted or doubled members; tensors that are
            larger than their bytes; containers within themselves.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    with open(path, "rb") as file:
        size = path.stat().st_size
        start = file.read(len(LEGACY))
        file.seek(0)
        try:
            if start == LEGACY:
                content, tensors = _legacy(file, size)
            elif start[:4] == b"PK\x03\x04":
                content, tensors = _archive(file, size)
            else:
                raise FileError("it is no file of torch.save")
        except FileError:
            raise
        except Exception as error:  # a broken pickle can raise anything
            raise FileError(_reason(error)) from error
    if tensors > 2 * size:  # a few may share their bytes
        raise FileError(f"its tensors would take {tensors / 1e6:.0f} MB, and the file has {size / 1e6:.3f} MB")
    _count(content, DEPTH, {})
    return content


def damaged_part(path: str | Path) -> str | None:
    """What is wrong with a file by its checksums, which ``torch.load`` does not look at; or None."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return None  # of before PyTorch 1.6, without checksums
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        part = f"its index ({_reason(error)})"
    return part and f"damaged since it was written (the checksum of {part} differs); take another one"


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0][:150] if str(error) else type(error).__name__


def _archive(file: BinaryIO, size: int) -> tuple[Any, int]:
    """Content and bytes of all tensors of a zip archive."""
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        _check_members(archive, members, size)
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise FileError("its archive has no data.pkl; it is no file of torch.save")
        top = pickles[0].removesuffix("data.pkl")
        if any(not name.startswith(top) for name in members):
            raise FileError("its archive has several folders; it is no file of torch.save")
        if members[pickles[0]].file_size > PICKLE_BYTES:
            raise FileError(f"its data.pkl has more than {PICKLE_BYTES >> 20} MB")
        data = archive.read(pickles[0])

    def check(key: str, numbers: int) -> None:
        member = members.get(f"{top}data/{key}")
        if member is None or member.file_size != numbers:
            raise FileError(f"tensor {key[:20]} takes {numbers} B, its member {member.file_size if member else 0}")

    reader = _Outline(io.BytesIO(data), check)
    return reader.load(), reader.bytes


def _check_members(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], size: int) -> None:
    every = archive.infolist()
    if len(members) != len(every):
        raise FileError("its archive has two members of one name")
    for member in every:
        if not re.fullmatch(MEMBERS, member.filename):
            raise FileError(f"its archive has a member {member.filename[:40]!r}; it is no file of torch.save")
        if member.flag_bits & 1:
            raise FileError("its archive is encrypted")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise FileError("its archive is compressed, which torch.save never does; write it again with torch.save")
    if archive.comment or sum(member.file_size for member in every) > size:
        raise FileError("its archive has members that lie over one another")


def _legacy(file: BinaryIO, size: int) -> tuple[Any, int]:
    """As :func:`_archive`, of the four pickles that stand before the bytes in an old file."""
    used: dict[str, int] = {}

    def check(key: str, numbers: int) -> None:
        used[key] = numbers
        if sum(used.values()) > size:
            raise FileError("its tensors are larger than the file")

    readers = [_Outline(file, check) for _ in range(4)]
    content = [reader.load() for reader in readers]
    return content[3], readers[3].bytes


class _Storage(NamedTuple):
    dtype: torch.dtype
    numbers: int


class _Outline(pickle._Unpickler):
    """Reads a pickle of ``torch.save`` without importing; ``bytes`` counts what its tensors will take.

    Args:
        check: raises if the member of this name does not have this many bytes.
    """

    def __init__(self, file: Any, check: Callable[[str, int], None]) -> None:
        super().__init__(file, encoding="utf-8")
        self._check = check
        self.bytes = 0

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch", "Size"): torch.Size,
            ("torch", "device"): torch.device,
            ("collections", "OrderedDict"): OrderedDict,
            ("collections", "Counter"): Counter,
            ("_codecs", "encode"): _latin1,
        } | {("torch", str(dtype).removeprefix("torch.")): dtype for dtype in DTYPES.values()}
        if (module, name) not in known:
            raise ForeignError(f"{module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, numbers, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _whole(numbers):
            raise FileError("it describes the bytes of a tensor in an unknown way")
        self._check(key, numbers * dtype.itemsize)
        return _Storage(dtype, numbers)

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        numbers = [offset, *size, *stride]
        if not isinstance(storage, _Storage) or not all(map(_whole, numbers)) or len(size) != len(stride):
            raise FileError("it describes a tensor in an unknown way")
        count = math.prod(size)
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        if count and (count > storage.numbers or last >= storage.numbers):
            raise FileError(f"a tensor of {_shown(size)} has only {storage.numbers} of its numbers in the file")
        if math.prod(side for side in size if side) >= 2**48:  # without numbers, PyTorch still multiplies the sides
            raise FileError(f"a tensor of {_shown(size)} is none")
        self.bytes += count * storage.dtype.itemsize
        return torch.empty_strided(tuple(size), tuple(stride), dtype=storage.dtype, device="meta")

    def load_build(self) -> None:
        """Attributes of an object: PyTorch's state dicts keep their versions so; all else could hide a method."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        owner = self.stack[-1]  # type: ignore[attr-defined]
        if not (isinstance(owner, OrderedDict) and isinstance(state, dict) and state.keys() <= {"_metadata"}):
            raise FileError(f"it sets attributes of a {type(owner).__name__}")

    dispatch = {  # type: ignore[assignment]
        code: function
        for code, function in pickle._Unpickler.dispatch.items()  # type: ignore[attr-defined]
        if bytes([code])
        in (
            *(pickle.GLOBAL, pickle.REDUCE, pickle.BINPERSID, pickle.PROTO, pickle.STOP, pickle.MARK),
            *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
            *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2),
            *(pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINSTRING),
            *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
            *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS, pickle.EMPTY_SET),
        )
    } | {pickle.BUILD[0]: load_build}
    """What ``torch.save`` uses. Other codes could take any amount of memory."""


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _latin1(text: str, encoding: str) -> bytes:
    """What protocol 2 needs to write bytes down; no other codec."""
    if encoding != "latin1":
        raise ForeignError(f"codec {encoding}")
    return text.encode("latin1")


def _whole(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**48


def _shown(size: Any) -> str:
    return str(tuple(size))[:60]


def _count(value: Any, depth: int, counts: dict[int, int]) -> int:
    """How many values can be reached from one; ``counts`` has those of containers that were met before."""
    if not isinstance(value, Mapping | list | tuple | set):
        if not isinstance(value, Tensor | str | int | float | bytes | torch.device | torch.dtype | None):
            _refuse(value)
        return 1
    if depth == 0:
        raise FileError(f"it has containers within containers, more than {DEPTH} deep")
    if id(value) not in counts:
        inner = [*value.keys(), *value.values()] if isinstance(value, Mapping) else list(value)
        total = 1 + sum(_count(one, depth - 1, counts) for one in inner)
        if total > VALUES:
            raise FileError(f"it holds more than {VALUES} values")
        counts[id(value)] = total
    return counts[id(value)]


def _refuse(value: Any) -> NoReturn:
    raise FileError(f"it holds a {type(value).__name__}, not tensors and plain values alone")

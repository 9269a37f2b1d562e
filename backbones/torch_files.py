"""Read files of ``torch.save`` safely, also files from an unknown source: check the complete file, then load it.

Such a file is a zip archive. One pickle describes the tensors, and one member per tensor holds its bytes.
:func:`outline` reads only the pickle and imports nothing that it names. It returns tensors on the meta device, so
callers can compare shapes before they allocate memory.
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
"""Names of the members that ``torch.save`` writes."""
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of a file from PyTorch before 1.6. Such a file is no archive and has no checksums."""
PICKLE_BYTES = 64 << 20
"""Largest pickle that is read. The pickle of a large detector with its optimizer takes less than 1% of this."""
DEPTH = 64
"""Largest depth of nested containers."""
VALUES = 2_000_000
"""Largest number of values in all containers; a value with several references counts several times."""
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
    """A file cannot be read. The message is the reason only; the caller puts the file's name before it."""


class ForeignError(FileError):
    """A file names a Python object other than tensors and plain values."""

    def __init__(self, name: str) -> None:
        self.name = ascii(name[:60])[1:-1]  # untrusted text: it must not send escape codes to a terminal
        super().__init__(f"it holds more than tensors and plain values ({self.name})")


class DamagedError(FileError):
    """The checksum of a part of a file does not match: the file changed after it was written."""


def read(path: str | Path, map_location: Any = "cpu") -> Any:
    """Return the content of a file: tensors and plain values.

    PyTorch writes a checksum of every tensor but does not compare it while reading. This function does.

    Raises:
        FileError: as for :func:`outline`, or a part of the file is damaged.
        OSError: the file cannot be opened.
    """
    outline(path)
    return load(path, map_location)


def load(path: str | Path, map_location: Any = "cpu") -> Any:
    """Return the content of a file that :func:`outline` has accepted; see :func:`read`."""
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises many kinds of exceptions for a broken file
        raise FileError(_reason(error)) from error
    if damaged := damaged_part(path):
        raise DamagedError(damaged)
    return content


def outline(path: str | Path) -> Any:
    """Return the content of a file with every tensor on the meta device, without imports, code or large memory.

    Raises:
        ForeignError: the file names other objects than tensors and plain containers.
        FileError: the file is not from ``torch.save`` or is cut short. Or its archive has compressed, encrypted or
            duplicate members, tensors that are larger than their bytes, or containers that contain themselves.
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
                raise FileError("it was not written by torch.save")
        except FileError:
            raise
        except Exception as error:  # a broken pickle can raise anything
            raise FileError(_reason(error)) from error
    if tensors > 2 * size:  # some tensors may use the same bytes
        raise FileError(f"its tensors would take {tensors / 1e6:.0f} MB, but the file has only {size / 1e6:.3f} MB")
    _count_values(content, DEPTH, {})
    return content


def damaged_part(path: str | Path) -> str | None:
    """Compare the checksums of a file, which ``torch.load`` ignores; return what is damaged, or None."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return None  # a file from before PyTorch 1.6, without checksums
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        part = f"its index ({_reason(error)})"
    return part and f"the file is damaged (the checksum of {part} differs); copy or download it again"


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0][:150] if str(error) else type(error).__name__


def _archive(file: BinaryIO, size: int) -> tuple[Any, int]:
    """Return the content of a zip archive, and the bytes of all its tensors."""
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        _check_members(archive, members, size)
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise FileError("its archive has no data.pkl, so it was not written by torch.save")
        top = pickles[0].removesuffix("data.pkl")
        if any(not name.startswith(top) for name in members):
            raise FileError("its archive has several folders, so it was not written by torch.save")
        if members[pickles[0]].file_size > PICKLE_BYTES:
            raise FileError(f"its data.pkl has more than {PICKLE_BYTES >> 20} MB")
        data = archive.read(pickles[0])

    def check(key: str, numbers: int) -> None:
        member = members.get(f"{top}data/{key}")
        if member is None or member.file_size != numbers:
            raise FileError(
                f"tensor {key[:20]} needs {numbers} B, but its member has {member.file_size if member else 0} B"
            )

    reader = _Outline(io.BytesIO(data), check)
    return reader.load(), reader.bytes


def _check_members(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], size: int) -> None:
    every = archive.infolist()
    if len(members) != len(every):
        raise FileError("its archive has two members with the same name")
    for member in every:
        if not re.fullmatch(MEMBERS, member.filename):
            raise FileError(f"its archive has a member {member.filename[:40]!r}, so it was not written by torch.save")
        if member.flag_bits & 1:
            raise FileError("its archive is encrypted")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise FileError("its archive is compressed, which torch.save never does; write it again with torch.save")
    if archive.comment or sum(member.file_size for member in every) > size:
        raise FileError("its archive has members that overlap")


def _legacy(file: BinaryIO, size: int) -> tuple[Any, int]:
    """Return content and bytes like :func:`_archive`, from the four pickles at the start of an old file."""
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
    """Read a pickle of ``torch.save`` without imports; ``bytes`` is the memory that its tensors will need.

    Args:
        check: raises an error if the member with this name does not have this number of bytes.
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
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _is_size(numbers):
            raise FileError("it describes the bytes of a tensor in an unknown format")
        self._check(key, numbers * dtype.itemsize)
        return _Storage(dtype, numbers)

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        numbers = [offset, *size, *stride]
        if not isinstance(storage, _Storage) or not all(map(_is_size, numbers)) or len(size) != len(stride):
            raise FileError("it describes a tensor in an unknown format")
        count = math.prod(size)
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        if count and (count > storage.numbers or last >= storage.numbers):
            raise FileError(f"the file has too few values for a tensor of shape {_short(size)}: {storage.numbers}")
        if math.prod(side for side in size if side) >= 2**48:  # PyTorch multiplies the sides of an empty tensor, too
            raise FileError(f"a tensor of shape {_short(size)} is too large")
        self.bytes += count * storage.dtype.itemsize
        return torch.empty_strided(tuple(size), tuple(stride), dtype=storage.dtype, device="meta")

    def load_build(self) -> None:
        """Accept attributes only for the versions in PyTorch's state dicts; any other attribute could hide a method."""
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
    """The pickle codes that ``torch.save`` uses. Other codes could allocate any amount of memory."""


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _latin1(text: str, encoding: str) -> bytes:
    """Encode text as pickle protocol 2 does for bytes; other codecs raise an error."""
    if encoding != "latin1":
        raise ForeignError(f"codec {encoding}")
    return text.encode("latin1")


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**48


def _short(size: Any) -> str:
    return str(tuple(size))[:60]


def _count_values(value: Any, depth: int, counts: dict[int, int]) -> int:
    """Return the number of values inside a value; ``counts`` caches the numbers of containers by id."""
    if not isinstance(value, Mapping | list | tuple | set):
        if not isinstance(value, Tensor | str | int | float | bytes | torch.device | torch.dtype | None):
            _reject(value)
        return 1
    if depth == 0:
        raise FileError(f"its containers are nested more than {DEPTH} deep")
    if id(value) not in counts:
        inner = [*value.keys(), *value.values()] if isinstance(value, Mapping) else list(value)
        total = 1 + sum(_count_values(one, depth - 1, counts) for one in inner)
        if total > VALUES:
            raise FileError(f"it holds more than {VALUES} values")
        counts[id(value)] = total
    return counts[id(value)]


def _reject(value: Any) -> NoReturn:
    raise FileError(f"it holds a {type(value).__name__}; only tensors and plain values are allowed")

"""Read JSON and YAML files, and check them before use.

A file may come from an unknown source. The readers reject a file that is too large or too deeply nested, repeats a key,
or has aliases that expand without end. The error message is one line and names the file.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import orjson
import yaml

from detection.foreign import shown
from detection.memory import no_garbage_collection
from detection.wording import plural
from detection.yaml_values import DEEPEST, MOST_DIGITS, YamlValues

LARGEST_YAML = 4 << 20
"""Largest YAML file in bytes. The names of 21,000 classes take 1 MB."""

Entry = Callable[[dict[str, Any]], Any]

_PIECE = 4 << 20
"""Bytes of a long list to read at a time."""
_PLACE = "\0entries read before"
"""Placeholder in a document for the entries of a long list that were read separately."""
_BETWEEN_OBJECTS = re.compile(rb"\}\s*,\s*(?=\{)")

_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")
"""Byte order marks of UTF-16 (two byte orders) and UTF-8."""
_DIGITS = bytes(48 if chr(code) in "0123456789" else 32 for code in range(256))
_LONG_ROW = b"0" * 19
_LONG_NUMBER = re.compile(rb"(?<![0-9.])[0-9]{19,}(?![0-9.eE])")
"""An integer that may need more than 64 bits."""
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class DocumentError(ValueError):
    """A file is invalid; the message is one line that names the file."""


def read_json(
    path: str | Path, entry: Entry | None = None, nonfinite: bool = False, long_list: str | None = None
) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        entry: function that converts each object. In the long list, it converts each entry, but not the objects inside
            an entry.
        nonfinite: accept NaN, Infinity and numbers too large for a float, which are not valid JSON.
        long_list: the key, in the outermost object, of a list with very many objects. The function reads this list in
            pieces, so that only the results of ``entry`` stay in memory.

    Raises:
        DocumentError: the path is not a regular file, the file is larger than half of the memory, or as for
            :func:`parse_json`.
    """
    return parse_json(read_bytes(path, _half_of_memory()), path, entry, nonfinite, long_list)


def parse_json(
    data: bytes,
    where: str | Path,
    entry: Entry | None = None,
    nonfinite: bool = False,
    long_list: str | None = None,
) -> Any:
    """Parse JSON from bytes like :func:`read_json`; error messages begin with ``where``.

    Raises:
        DocumentError: the bytes are not JSON in UTF-8 or UTF-16, or are nested too deeply. Or an integer has more than
            MOST_DIGITS digits, a key occurs twice in one object, or a number is NaN or Inf.
    """
    if data.startswith(_MARKS):
        data = decoded(data, where).encode()
    with no_garbage_collection():
        entries, rest = ([], data) if long_list is None else _pieces(data, long_list, entry)
        if entries:
            with suppress(DocumentError):  # parse the complete document then, for the correct position in the message
                content = _parse(rest, where, entry, nonfinite)
                listed = content.get(long_list) if isinstance(content, dict) else None
                if isinstance(listed, list) and listed[:1] == [_PLACE]:  # otherwise it was another list of this name
                    listed[:1] = entries
                    return content
        del entries, rest
        return _parse(data, where, entry, nonfinite)


def _parse(data: bytes, where: str | Path, entry: Entry | None, nonfinite: bool) -> Any:
    if _depth(data) > DEEPEST:
        raise DocumentError(f"{where}: not valid JSON (nested too deeply, over {DEEPEST}); is it the right file?")
    if entry is None:
        found, content = _quick(data)
        if found:
            return content
    text, whole = decoded(data, where), _whole if entry is None or _has_long_number(data) else None
    del data  # halves the peak memory
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique if entry is None else lambda pairs: entry(_unique(pairs)),
            parse_int=whole,
            parse_float=None if nonfinite else _finite,
            parse_constant=None if nonfinite else _constant,
        )
    except RecursionError as error:
        raise DocumentError(f"{where}: not valid JSON (nested too deeply); is it the right file?") from error
    except DocumentError as error:
        raise DocumentError(f"{where}: {error}") from error
    except ValueError as error:
        reason = shown(error, 120)
        raise DocumentError(f"{where}: not valid JSON ({reason}); is the file complete?") from error


def _pieces(data: bytes, key: str, entry: Entry | None) -> tuple[list[Any], bytes]:
    """Return the first entries of a list of objects, and the document with :data:`_PLACE` instead of them.

    A piece begins where an entry can begin. If orjson can read it as a list, it ends where an entry ends, and the next
    piece begins there. From the first piece that orjson cannot read, everything remains in the document.
    """
    begin = _begin_of_list(data, key)
    entries: list[Any] = []
    start = begin
    while begin and len(data) - start > _PIECE:
        end = _BETWEEN_OBJECTS.search(data, start + _PIECE)
        if end is None:
            break
        piece = b"[" + data[start : end.start() + 1] + b"]"
        if _depth(piece) >= DEEPEST:
            break
        found, values = _quick(piece)
        if not found:
            break
        entries += [entry(value) if entry and type(value) is dict else value for value in values]
        start = end.end()
    return entries, data[:begin] + json.dumps(_PLACE).encode() + b", " + data[start:] if entries else data


def _begin_of_list(data: bytes, key: str) -> int:
    """Return the position of the first object in the list with a key; 0 if there is none."""
    quoted = json.dumps(key).encode()
    place = data.find(quoted)
    while place >= 0:
        before = data[max(0, place - 100) : place].rstrip()
        after = re.compile(rb"\s*:\s*\[\s*(?=\{)").match(data, place + len(quoted))
        if after and before.endswith((b"{", b",")):
            return after.end()
        place = data.find(quoted, place + 1)
    return 0


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file as dicts, lists and text: ``on``, ``007`` and ``null`` remain text.

    Raises:
        DocumentError: the path is not a regular file, the file has more than LARGEST_YAML bytes, or as for
            :func:`parse_yaml`.
    """
    return parse_yaml(decoded(read_bytes(path, LARGEST_YAML), path), path)


def parse_yaml(text: str, where: str | Path) -> Any:
    """Parse YAML from text like :func:`read_yaml`; error messages begin with ``where``.

    Raises:
        DocumentError: the text is not YAML, holds several documents, has too many values, or is nested too deeply. Or
            a key occurs twice in one mapping, an alias refers to a value that contains it, a tag is unknown, or an
            integer has more than MOST_DIGITS digits.
    """
    builder = YamlValues()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DocumentError(f"{where}: not valid YAML ({shown(error.problem, 120)}{line})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise DocumentError(f"{where}: not valid YAML ({shown(str(error).partition(chr(10))[0], 120)})") from error
    return builder.content


def read_text(path: str | Path, most: int) -> str:
    """Return the text of a file; see :func:`decoded`.

    Raises:
        DocumentError: the path is not a regular file, the file has more than ``most`` bytes, or is not text.
    """
    return decoded(read_bytes(path, most), path)


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return the content of a regular file; opening a pipe, for example, would wait forever.

    Raises:
        DocumentError: the file does not exist, is not regular, or has more than ``most`` bytes.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DocumentError(f"{path}: is a folder, pipe or device; give a regular file")
            if status.st_size > most:
                raise DocumentError(
                    f"{path}: has {plural(status.st_size, 'byte')}; the limit is {most}. Is it the right file?"
                )
            return file.read()
    except OSError as error:
        raise DocumentError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def decoded(data: bytes, where: str | Path) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark, which some editors on Windows write.

    Raises:
        DocumentError: the text has another encoding.
    """
    encoding = "utf-16" if data.startswith(_MARKS[:2]) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DocumentError(f"{where}: is not text in UTF-8 ({error.reason}); save it as UTF-8") from error


def _quick(data: bytes) -> tuple[bool, Any]:
    """Return whether orjson's result is correct, and the result.

    orjson takes a third of the time of :mod:`json`. But it silently keeps the last of several equal keys, rejects NaN,
    and converts integers of more than 64 bits to floats. :mod:`json` reads such documents and makes error messages.
    """
    if _LONG_ROW in data.translate(_DIGITS) and _LONG_NUMBER.search(data):
        return False, None
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False, None
    # Strings can contain such characters, too. Then the count is too large, never too small.
    return _pairs(content) == data.count(b'":') + len(re.findall(rb'"\s+:', data)), content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict from the pairs of a JSON object; raise an error for a repeated key."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        which = f"the object with id {shown(entry['id'])}" if "id" in entry else "one object"
        raise DocumentError(f"the key {shown(twice)!r} occurs twice in {which}; remove one")
    return entry


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise DocumentError(f"has a number of {plural(len(digits), 'digit')}; at most {MOST_DIGITS} are allowed")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if abs(value) == float("inf"):
        raise DocumentError(f"has the number {shown(digits)}, which is too large for a float; correct it")
    return value


def _constant(name: str) -> NoReturn:
    raise DocumentError(f"has the number {name}, which is not valid JSON; write null")


def _depth(data: bytes) -> int:
    """Return the depth of nested brackets; brackets in strings, such as an RLE, do not count."""
    # Remove escaped backslashes first, as one can precede the quote that ends a string.
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    bare = data.translate(None, _NO_BRACKETS)
    code = np.frombuffer(bare, dtype=np.uint8)
    outside = np.bitwise_xor.accumulate(code == ord('"')) == 0
    opens = ((code == ord("[")) | (code == ord("{"))) & outside
    closes = ((code == ord("]")) | (code == ord("}"))) & outside
    return int(np.cumsum(opens.astype(np.int8) - closes, dtype=np.int32).max(initial=0))


def _pairs(content: Any) -> int:
    """Count the key-value pairs of all objects, except in lists whose first element is not an object or list."""
    if type(content) is dict:
        count = len(content)
        inner: Iterable[Any] = content.values()
    elif type(content) is list and content and type(content[0]) in (dict, list):
        count, inner = 0, content
    else:
        return 0
    for value in inner:
        if type(value) is dict or (type(value) is list and value and type(value[0]) in (dict, list)):
            count += _pairs(value)
    return count


def _has_long_number(data: bytes) -> bool:
    """Return whether a row of digits is so long that it may be a number of more than MOST_DIGITS digits."""
    block = MOST_DIGITS // 2  # a row of MOST_DIGITS digits fills at least one such block
    step = block << 16
    for start in range(0, len(data), step):
        code = np.frombuffer(data, np.uint8, min(step, len(data) - start) // block * block, start)
        if ((code - 48) < 10).reshape(-1, block).all(axis=1).any():
            return True
    return False


def _half_of_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):  # Windows
        return 8 << 30

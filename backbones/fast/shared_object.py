"""Check from its header whether a shared library (ELF, 64 bits) is complete, without loading it.

The system's loader trusts the header. If the file is shorter than its header says, the system kills the process
(SIGBUS).
"""

import struct
from pathlib import Path

_HEADER = struct.Struct("<4sBB10x HHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SHARED, _LOADED = 3, 1  # ET_DYN, PT_LOAD of elf.h


def is_complete(path: Path) -> bool:
    """Return whether the file contains every segment to load and the complete section table at its end."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(_HEADER.size)
        if len(start) < _HEADER.size:
            return False
        header = _HEADER.unpack(start)
        magic, bits, order, kind = header[:4]
        if (magic, bits, order, kind) != (b"\x7fELF", 2, 1, _SHARED):
            return False
        segments, sections = header[7], header[8]
        segment_size, count, section_size, section_count = header[11:15]
        if segment_size != _SEGMENT.size or not count or sections + section_size * section_count > size:
            return False
        file.seek(segments)
        table = file.read(count * _SEGMENT.size)
    if len(table) < count * _SEGMENT.size:
        return False
    return all(
        offset + length <= size
        for kind, _, offset, _, _, length, _, _ in _SEGMENT.iter_unpack(table)
        if kind == _LOADED
    )

"""Programs of ``torch.export`` in a file, ``model.pt2``: the graph, the weights, and texts.

That of a detector contains the toolkit's operators, so whatever runs it imports ``detection``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

from detection.checkpoint_files import replacing

TEXTS = "extra/"
"""Folder of texts in the archive."""
OWN = (".data/", "byteorder", "version")
"""Entries that PyTorch writes into every archive."""


def save(program: Any, path: Path) -> None:
    """Write a program of ``torch.export``, without metadata.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as file:
        torch.export.save(program, file)


def add_metadata(path: Path, entries: Mapping[str, Any]) -> None:
    """Write entries, as JSON, into the archive; an entry of the same name is replaced."""
    texts = {TEXTS + name: json.dumps(value).encode() for name, value in entries.items()}
    with PT2ArchiveReader(str(path)) as old, replacing(path) as file, PT2ArchiveWriter(file) as new:
        for name in old.get_file_names():
            if name not in texts and not name.startswith(OWN):
                new.write_bytes(name, old.read_bytes(name))
        for name, text in texts.items():
            new.write_bytes(name, text)

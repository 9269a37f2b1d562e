"""Write a program of ``torch.export``: ``model.pt2``, which holds the graph and the weights.

That of a detector contains the toolkit's operators, so whatever runs it imports ``detection``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detection.checkpoint_files import replacing
from detection.export.runtime import read_program


def save(program: Any, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """Write a program of ``torch.export``, with texts in its archive.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as file:
        torch.export.save(program, file, extra_files=dict(texts or {}))


def add_metadata(path: Path, entries: Mapping[str, Any]) -> None:
    """Write entries, as JSON, into the archive; an entry of the same name is replaced."""
    program, texts = read_program(path)
    save(program, path, texts | {name: json.dumps(value) for name, value in entries.items()})

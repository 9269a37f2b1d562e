"""Write a detector as a program of ``torch.export``: ``model.pt2``, which holds the graph and the weights.

The program contains the toolkit's operators, so a program that runs it imports ``detection``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detection.checkpoint_files import replacing
from detection.export.options import ExportOptions
from detection.export.program import export_program
from detection.export.runtime import read_program
from detection.models.detector import Detector


def write_torch(model: Detector, path: Path, options: ExportOptions) -> None:
    """Write a detector as a program of ``torch.export``, without metadata.

    Raises:
        ValueError: as for :func:`~detection.export.program.export_program`.
        OSError: the file cannot be written.
    """
    _save(export_program(model, options.nms, options.masks), path, {})


def add_metadata(path: Path, entries: Mapping[str, Any]) -> None:
    """Write entries, as JSON, into the archive; an entry of the same name is replaced."""
    program, texts = read_program(path)
    _save(program, path, texts | {name: json.dumps(value) for name, value in entries.items()})


def _save(program: Any, path: Path, texts: dict[str, str]) -> None:
    with replacing(path) as file:
        torch.export.save(program, file, extra_files=texts)

"""The tables in the folder of a run, as a reader finds them: ``train.csv``, ``val.csv`` and those of older runs."""

import csv
import math
from pathlib import Path

from detection.documents import parse_json, read_text
from detection.foreign import shown

TRAIN, VAL, TEST = "train.csv", "val.csv", "test.csv"
IMAGES = "images"
"""Folder of the sheets of training batches and predictions."""
LARGEST = 1 << 30
"""Bytes of a table at most."""

Row = dict[str, float]
"""A row without its empty cells."""


def read_table(path: str | Path) -> list[Row]:
    """Read a table of numbers.

    A program that was killed may leave a last line without its end; that line is skipped.

    Args:
        path: a CSV file whose first line names the columns.

    Raises:
        ValueError: the file cannot be read, or a cell holds no number.
    """
    lines = read_text(path, LARGEST).splitlines(keepends=True)
    if lines and not lines[-1].endswith(("\n", "\r")):
        lines.pop()
    rows = []
    for number, cells in enumerate(csv.DictReader(lines), 2):
        try:
            rows.append({name: float(value) for name, value in cells.items() if name is not None and value})
        except (TypeError, ValueError):
            raise ValueError(f"{path}: line {number} has a cell that is no number: {shown(cells)}") from None
    return rows


def evaluations(folder: str | Path) -> list[Row]:
    """Read the evaluations of a run on its validation data, in their order.

    Args:
        folder: of a run. Runs of older versions have ``metrics.json``, with one object per line.

    Raises:
        ValueError: as :func:`read_table`.
    """
    if (table := Path(folder) / VAL).is_file():
        return read_table(table)
    older = Path(folder) / "metrics.json"
    if not older.is_file():
        return []
    found = [parse_json(line.encode(), older) for line in read_text(older, LARGEST).splitlines()]
    return [{name: math.nan if value is None else value for name, value in line.items()} for line in found]

"""Write ``train.csv``, ``val.csv`` and ``test.csv`` in the folder of a run, and continue them in a resumed run."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from detection.checkpoint_files import replacing
from detection.engine.errors import user_input
from detection.run_files import TEST, TRAIN, VAL, Row, read_table

FIRST = ("epoch", "step")
"""First columns: the epoch, counted from 1, and the number of finished optimizer steps."""
OTHERS = ("val/", "test/")
"""Prefixes of metrics that ``train.csv`` does not contain."""


class Table:
    """Append rows to a CSV file.

    A new column rewrites the file. Numbers have six significant digits. NaN is ``nan``; a cell is empty if the row has
    no value of the metric.

    Args:
        path: path of the file, which need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._columns: list[str] | None = None

    def append(self, row: Mapping[str, float]) -> None:
        """Append a row."""
        if self._columns is None:
            self._begin()
        assert self._columns is not None
        if new := [name for name in row if name not in self._columns]:
            self.write([*self._rows(), row], [*self._columns, *new])
            return
        with user_input(), open(self.path, "a", newline="", encoding="utf-8") as file:
            file.write(_line(row.get(name) for name in self._columns))

    def write(self, rows: Sequence[Mapping[str, float]], columns: Sequence[str] = FIRST) -> None:
        """Replace the file, completely or not at all.

        Args:
            rows: all rows of the new file.
            columns: first columns; the other columns of the rows follow.
        """
        names = dict.fromkeys(columns) | {name: None for row in rows for name in row}
        lines = [_line(names), *(_line(row.get(name) for name in names) for row in rows)]
        with user_input():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as file:
                file.write("".join(lines).encode())
        self._columns = list(names)

    def cut(self, last: int) -> Path | None:
        """Move the rows after a step, which a resumed run computes again, into a new file beside this one.

        Move only rows at the end: with another batch size, earlier rows may have higher steps.

        Args:
            last: step of the checkpoint.

        Returns:
            The path of the new file, such as ``train_0.csv``; None if there was nothing to move.
        """
        rows = self._rows()
        keep = len(rows)
        while keep and rows[keep - 1].get("step", 0) > last:
            keep -= 1
        return self.set_aside(rows[:keep], rows[keep:]) if keep < len(rows) else None

    def set_aside(self, kept: Sequence[Mapping[str, float]], moved: Sequence[Mapping[str, float]]) -> Path:
        """Keep some rows, move the others into the next free ``NAME_N.csv``, and return its path."""
        number = 0
        while (beside := self.path.with_name(f"{self.path.stem}_{number}.csv")).exists():
            number += 1
        Table(beside).write(moved)
        self.write(kept)
        return beside

    def _begin(self) -> None:
        """Read the columns of an existing file, and remove an incomplete last line."""
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        if not text or not text.endswith("\n"):
            self.write(self._rows())
        else:
            self._columns = next(csv.reader(text.splitlines()[:1]), [])

    def _rows(self) -> list[Row]:
        with user_input():
            return read_table(self.path) if self.path.is_file() else []


class TrainTable(Logger):
    """Write training metrics into ``train.csv``: losses, learning rate, speed and the time of each part of a step.

    Args:
        folder: folder of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.table = Table(Path(folder) / TRAIN)
        self._row: dict[str, float] = {}

    @property
    def name(self) -> str:
        return "train.csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Ignore the settings, which ``config.yaml`` contains."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add metrics to the row of a step; write the row when metrics of another step follow."""
        values = {name: float(value) for name, value in metrics.items() if not name.startswith((*OTHERS, "epoch"))}
        if not values or step is None:
            return
        # Lightning counts epochs and steps from 0.
        place = {"epoch": int(metrics.get("epoch", 0)) + 1, "step": step + 1}
        if self._row and self._row["step"] != place["step"]:
            self.flush()
        self._row = {**place, **self._row, **values}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.flush()

    def flush(self) -> None:
        """Write the unfinished row."""
        if self._row:
            row, self._row = self._row, {}
            self.table.append(row)


class Tables(Callback):
    """Write a row of ``val.csv`` or ``test.csv`` at every evaluation, and continue the tables of a resumed run.

    Each checkpoint contains the rows of the evaluations before it, so that a resumed run has the same rows as an
    uninterrupted one.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._trainer: Trainer | None = None
        self._resumed: int | None = None

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._trainer = trainer

    @property
    def state_key(self) -> str:
        return "MetricsFile"  # the name of the class in checkpoints of older versions

    def state_dict(self) -> dict[str, Any]:
        return {"rows": list(self._rows), "step": 0 if self._trainer is None else self._trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "lines" in state_dict:
            self._rows, self._resumed = older_rows(state_dict["lines"]), 0  # there was no train.csv
            return
        # Not the checkpoint's global step, which is already converted to another batch size.
        self._rows, self._resumed = checked_rows(state_dict["rows"]), int(state_dict["step"])

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        folder = trainer.log_dir  # all ranks must call it
        if folder is None or not trainer.is_global_zero or self._resumed is None:
            return
        moved = [Table(Path(folder) / TRAIN).cut(self._resumed), restore_rows(Path(folder) / VAL, self._rows)]
        if any(moved):
            names = " and ".join(str(path) for path in moved if path)
            module.print(f"Moved the rows of steps after the checkpoint to {names}")

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._append(trainer, "val/", VAL)

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._append(trainer, "test/", TEST)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        _flush(trainer)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        _flush(trainer)

    def _append(self, trainer: Trainer, prefix: str, name: str) -> None:
        folder = trainer.log_dir  # all ranks must call it
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
        if not trainer.is_global_zero or folder is None:
            return
        _flush(trainer)
        trains = trainer.state.fn == "fit"
        place = (trainer.current_epoch + 1, trainer.global_step) if trains else (0, 0)
        row: Row = dict(zip(FIRST, place, strict=True))
        row |= {name: rounded(value) for name, value in metrics.items()}
        if trains:
            self._rows.append(row)
        Table(Path(folder) / name).append(row)


def restore_rows(path: Path, rows: Sequence[Mapping[str, float]]) -> Path | None:
    """Restore the rows of ``val.csv`` up to the checkpoint of a resumed run, and keep those of ``rcnn validate``.

    A run that was killed between an evaluation and the next checkpoint has a row of this evaluation, which the resumed
    run repeats.

    Args:
        path: path of ``val.csv``.
        rows: rows in the checkpoint.

    Returns:
        The path of a new file with the rows that are not in the checkpoint; None if there were none.
    """
    with user_input():
        found = read_table(path) if path.is_file() else []
    known = [_key(row) for row in rows]
    moved = [row for row in found if row.get("step") and _key(row) not in known]
    alone = [row for row in found if not row.get("step")]
    if moved:
        return Table(path).set_aside([*rows, *alone], moved)
    if [_key(row) for row in found if row.get("step")] != known:
        Table(path).write([*rows, *alone])
    return None


def checked_rows(rows: Any) -> list[dict[str, float]]:
    """Return the rows of evaluations from a checkpoint after a check.

    Raises:
        ValueError: they are not a list of dicts with names and numbers.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_plain(row) for row in rows):
        raise ValueError("its evaluations must be a list of names and numbers")
    return list(rows)


def older_rows(lines: Any) -> list[dict[str, float]]:
    """Return rows from a checkpoint of an older version, which counted epochs from 0 and stored NaN as None.

    Raises:
        ValueError: the rows are not a list of dicts with names and numbers.
    """
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        return checked_rows(None)
    rows = [{name: math.nan if value is None else value for name, value in line.items()} for line in lines]
    checked = checked_rows(rows)
    return [{n: rounded(value) for n, value in row.items()} | {"epoch": row.get("epoch", 0) + 1} for row in checked]


def rounded(value: float) -> float:
    """Return a number rounded to six significant digits, as in the tables."""
    return float(_cell(value))


def _flush(trainer: Trainer) -> None:
    """Write the unfinished row of ``train.csv``, before other programs read the table."""
    for logger in trainer.loggers:
        if isinstance(logger, TrainTable):
            logger.flush()


def _key(row: Mapping[str, float]) -> tuple[tuple[str, str], ...]:
    """Return a row as its text in the file, for comparisons in which NaN equals NaN."""
    return tuple(sorted((name, _cell(value)) for name, value in row.items()))


def _is_plain(row: dict[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(value, int | float) for name, value in row.items())


def _line(values: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([v if isinstance(v, str) else _cell(v) for v in values])
    return line.getvalue()


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.6g}"

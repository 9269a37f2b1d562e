"""Plot the curves of runs: losses, AP, learning rate and throughput, from their CSV files."""

import math
import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from detection.run_files import TRAIN, VAL, Row, read_table

PANELS = (
    ("loss", ("train/loss",), ("val/loss",)),
    ("AP in percent", (), ("val/bbox/AP", "val/segm/AP", "val/keypoints/AP")),
    ("accuracy in percent", (), ("val/top1", "val/top5")),
    ("mAP and F1 in percent", (), ("val/mAP", "val/F1")),
    ("differences of the outputs", ("train/spread", "train/rank"), ()),
    ("k-NN accuracy in percent", (), ("val/knn",)),
    (
        "parts of the loss",
        ("train/loss_*",),
        (),
    ),
    ("learning rate", ("train/lr",), ()),
    ("images per second", ("train/images_per_second",), ()),
)
"""Titles, columns to draw as lines, and columns to draw as lines with points; ``*`` stands for any text."""
FRACTIONS = ("/AP", "/top1", "/top5", "/mAP", "/F1", "/knn")
"""Ends of the names of columns to draw in percent."""

Curve = list[tuple[float, float]]


def read_run(path: str | Path) -> dict[str, Curve]:
    """Read the (step, value) points of each column of a run.

    Of two rows with one step, the later one counts.

    Args:
        path: folder of a run, or one table. Runs of older versions have ``metrics.csv``, and ``metrics_N.csv`` of
            earlier starts.

    Raises:
        ValueError: there is no such file, or it has no steps.
    """
    path = Path(path)
    points: dict[str, dict[float, float]] = {}
    for row in _rows(path):
        for name, value in row.items():
            if name not in ("step", "epoch") and "step" in row:
                points.setdefault(name, {})[row["step"]] = value
    if not points:
        raise ValueError(f"{path}: has no values yet")
    return {name: sorted(values.items()) for name, values in points.items()}


def _rows(path: Path) -> list[Row]:
    """Return the rows of all tables of a run, in the order of writing."""
    if path.is_dir():
        older = [path / f"metrics_{k}.csv" for k in range(len(list(path.glob("metrics_*.csv"))))]
        files = [file for file in (*older, path / "metrics.csv", path / TRAIN, path / VAL) if file.is_file()]
    else:
        files = [path]
    if not files:
        raise ValueError(f"{path}: has no {TRAIN}; give the folders of runs")
    return [row for file in files for row in read_table(file)]


def smooth(curve: Curve, window: int) -> Curve:
    """Replace each value by the mean of the finite values around it."""
    half = window // 2
    smoothed = []
    for k, (step, _) in enumerate(curve):
        near = [value for _, value in curve[max(0, k - half) : k + half + 1] if math.isfinite(value)]
        if near:
            smoothed.append((step, sum(near) / len(near)))
    return smoothed


def plot(runs: dict[str, dict[str, Curve]], output: Path, window: int = 1) -> None:
    """Draw all runs into one file; its suffix chooses the format.

    Args:
        runs: from :func:`read_run`, by name.
        output: file to write.
        window: number of values to average.

    Raises:
        ValueError: matplotlib has no format with the suffix.
    """
    from matplotlib.figure import Figure  # takes half a second

    known = set().union(*runs.values())
    panels = [panel for panel in PANELS if _columns(panel[1], known) or _columns(panel[2], known)]
    figure = Figure(figsize=(11, 3.2 * -(-len(panels) // 2)), layout="constrained")
    axes = figure.subplots(-(-len(panels) // 2), 2, squeeze=False).ravel()
    for axis, (title, continuous, dotted) in zip(axes, panels, strict=False):
        _panel(axis, title, runs, continuous, dotted, window)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    # A temporary file first, so that no program reads a partial image.
    partial = output.with_name(f".{output.stem}.{os.getpid()}{output.suffix}")
    try:
        figure.savefig(partial, dpi=110)
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)


def _panel(
    axis: Any,
    title: str,
    runs: dict[str, dict[str, Curve]],
    continuous: Sequence[str],
    dotted: Sequence[str],
    window: int,
) -> None:
    """Draw one chart: a colour for each run, a line style for each column."""
    styles = ("-", "--", ":", "-.", (0, (1, 3)))
    known = {name: None for run in runs.values() for name in run}  # in the order of the files
    columns = [*_columns(continuous, known), *_columns(dotted, known)]
    for k, (run, curves) in enumerate(runs.items()):
        for n, name in enumerate(columns):
            if name not in curves:
                continue
            drawn = curves[name] if name in dotted else smooth(curves[name], window)
            drawn = [(step, 100 * value) for step, value in drawn] if name.endswith(FRACTIONS) else drawn
            label = " ".join(part for part in (run if len(runs) > 1 else "", _short(name)) if part)
            # One run: colours for columns; several: colours for runs.
            color = f"C{(k if len(runs) > 1 else n) % 10}"
            style = styles[n % len(styles)] if len(runs) > 1 else "-"
            marker = "os"[dotted.index(name) % 2] if name in dotted else "." if len(drawn) == 1 else None
            axis.plot(*zip(*drawn, strict=True), color=color, linestyle=style, marker=marker, markersize=4, label=label)
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel("step")
    axis.locator_params(axis="x", integer=True)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=7, frameon=False)


def _columns(patterns: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the known columns that patterns name."""
    return [name for pattern in patterns for name in known if fnmatchcase(name, pattern)]


def _short(name: str) -> str:
    name = "val loss" if name == "val/loss" else name.removeprefix("train/").removeprefix("val/")
    return name.removesuffix("/AP").removeprefix("loss_")

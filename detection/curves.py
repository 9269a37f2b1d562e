"""Plot the curves of runs: losses, AP, learning rate and throughput, from their CSV files."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANELS = (
    ("loss", ("train/loss",), ("val/loss",)),
    ("AP in percent", (), ("val/bbox/AP", "val/segm/AP")),
    (
        "parts of the loss",
        ("train/loss_rpn_cls", "train/loss_rpn_loc", "train/loss_cls", "train/loss_box_reg", "train/loss_mask"),
        (),
    ),
    ("learning rate", ("train/lr",), ()),
    ("images per second", ("train/images_per_second",), ()),
)
"""Titles, columns to draw as lines, and columns to draw as lines with points."""

Curve = list[tuple[float, float]]


def read_run(path: str | Path) -> dict[str, Curve]:
    """Read the (step, value) points of each column of a run.

    Args:
        path: folder of a run, with the curves of all its starts, or one ``metrics.csv``. The last row of a step counts.

    Raises:
        ValueError: there is no such file, or it has no steps.
    """
    path = Path(path)
    file = path / "metrics.csv" if path.is_dir() else path
    starts = len(list(path.glob("metrics_*.csv"))) if path.is_dir() else 0
    rows = [row for k in range(starts) for row in _rows(path / f"metrics_{k}.csv")] + _rows(file)
    points: dict[str, dict[float, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in (None, "step", "epoch") and value and row.get("step"):
                points.setdefault(name, {})[float(row["step"])] = float(value)
    if not points:
        raise ValueError(f"{file}: has no values yet")
    return {name: sorted(values.items()) for name, values in points.items()}


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); give the folders of runs") from error


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
        ValueError: matplotlib is not installed, or has no format with the suffix.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(f"plotting needs matplotlib ({error}): pip install 'rcnn-toolkit[plot]'") from error
    known = set().union(*runs.values())
    panels = [panel for panel in PANELS if known & {*panel[1], *panel[2]}]
    figure = Figure(figsize=(11, 3.2 * -(-len(panels) // 2)), layout="constrained")
    axes = figure.subplots(-(-len(panels) // 2), 2, squeeze=False).ravel()
    for axis, (title, continuous, dotted) in zip(axes, panels, strict=False):
        _panel(axis, title, runs, continuous, dotted, window)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


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
    columns = [name for name in (*continuous, *dotted) if any(name in run for run in runs.values())]
    for k, (run, curves) in enumerate(runs.items()):
        for n, name in enumerate(columns):
            if name not in curves:
                continue
            drawn = curves[name] if name in dotted else smooth(curves[name], window)
            drawn = [(step, 100 * value) for step, value in drawn] if name.endswith("/AP") else drawn
            label = " ".join(part for part in (run if len(runs) > 1 else "", _short(name)) if part)
            # One run: colours for columns; several: colours for runs.
            color = f"C{(k if len(runs) > 1 else n) % 10}"
            style = styles[n % len(styles)] if len(runs) > 1 else "-"
            marker = "os"[dotted.index(name) % 2] if name in dotted else None
            axis.plot(*zip(*drawn, strict=True), color=color, linestyle=style, marker=marker, markersize=4, label=label)
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=7, frameon=False)


def _short(name: str) -> str:
    name = "val loss" if name == "val/loss" else name.removeprefix("train/").removeprefix("val/")
    return name.removesuffix("/AP").removeprefix("loss_")

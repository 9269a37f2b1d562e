"""The change of AP against the report that a folder already has."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.documents import read_json
from detection.evaluation.percent import percent
from detection.foreign import shown
from detection.report.analysis import ONE, Analysis

SAME = ("annotations_sha256", "image_ids_sha256", "protocol")
"""Entries that are equal in two evaluations of the same images."""


def change_since(path: Path, about: Mapping[str, Any], analyses: Sequence[Analysis]) -> str | None:
    """Compare AP with that of an earlier report on the same images.

    Args:
        path: ``report.json`` of the earlier report, if there is one.
        about: what the new evaluation is of.
        analyses: of the new evaluation.

    Returns:
        One sentence; None without an earlier report, or if that is of other images or another protocol.

    Example:
        >>> change_since(Path("evaluation/report.json"), about, analyses)  # doctest: +SKIP
        'Since the evaluation of 2026-11-30 09:24 UTC in this folder: box AP 35.3 → 36.1 (+0.8).'
    """
    try:
        before = read_json(path)
        old = before["about"]
        if any(old[name] != about[name] for name in SAME):
            return None
        values = {a.iou_type: (float(before[a.iou_type]["numbers"]["AP"]["value"]), a) for a in analyses}
    except (OSError, ValueError, KeyError, TypeError):  # none, or a file of another program
        return None
    changes = []
    for kind, (value, analysis) in values.items():
        now = analysis.numbers["AP"].value
        changes.append(f"{ONE[kind]} AP {percent(value)} → {percent(now)} ({100 * (now - value):+.1f})")
    return f"Since the evaluation of {shown(old.get('date'), 40)} in this folder: {', '.join(changes)}."

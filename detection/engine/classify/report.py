"""Write the scores of an evaluation of a classifier into the run's folder: JSON, and a page to read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detection.checkpoint_files import replacing
from detection.engine.errors import user_input
from detection.foreign import shown
from detection.wording import plural

MOST_CONFUSIONS = 20
"""Number of pairs of classes on the page."""


def write_report(folder: Path, split: str, report: Mapping[str, Any]) -> None:
    """Write ``classes_SPLIT.json`` and ``classes_SPLIT.md``, of the last evaluation of a split.

    Args:
        folder: folder of the run.
        split: ``val`` or ``test``.
        report: scores from :meth:`~detection.evaluation.classification.ClassificationEvaluator.report`.
    """
    with user_input():
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("json", json.dumps(report, indent=1)), ("md", page(split, report))):
            with replacing(folder / f"classes_{split}.{name}") as file:
                file.write(text.encode())


def page(split: str, report: Mapping[str, Any]) -> str:
    """Return a page in Markdown: accuracies, classes, the most frequent confusions, and calibration."""
    names = [shown(row["name"], 60).replace("|", "\\|") for row in report["classes"]]
    metrics = "\n".join(
        f"| {name} | {_percent(value)} |" for name, value in report["metrics"].items() if name != "loss"
    )
    rows = "\n".join(
        f"| {name} | {row['images']} | {row['predicted']} | {_percent(row['accuracy'])} |"
        for name, row in zip(names, report["classes"], strict=True)
    )
    confusions = [
        (count, true, found)
        for true, line in enumerate(report["confusion"])
        for found, count in enumerate(line)
        if count and true != found
    ]
    pairs = "\n".join(
        f"| {names[true]} | {names[found]} | {count} |"
        for count, true, found in sorted(confusions, key=lambda one: -one[0])[:MOST_CONFUSIONS]
    )
    calibration = report["calibration"]
    bins = "\n".join(
        f"| {_percent(row['from'])} to {_percent(row['to'])} | {row['images']} | {_percent(row['confidence'])} "
        f"| {_percent(row['accuracy'])} |"
        for row in calibration["bins"]
    )
    return (
        f"# Classes of {split}: {plural(report['images'], 'image')}\n\n"
        f"| accuracy | percent |\n| --- | ---: |\n{metrics}\n\n"
        f"## Classes\n\n| class | images | predicted | accuracy |\n| --- | ---: | ---: | ---: |\n{rows}\n\n"
        f"## Most frequent confusions\n\n| true class | predicted class | images |\n| --- | --- | ---: |\n{pairs}\n\n"
        "## Calibration\n\n"
        "A classifier is calibrated if its confidence is its accuracy. The expected calibration error is "
        f"{_percent(calibration['error'])} percent.\n\n"
        f"| confidence | images | mean confidence | accuracy |\n| --- | ---: | ---: | ---: |\n{bins}\n"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"

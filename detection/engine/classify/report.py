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
        markdown = page(split, report) if "confusion" in report else page_of_several(split, report)
        for name, text in (("json", json.dumps(report, indent=1)), ("md", markdown)):
            with replacing(folder / f"classes_{split}.{name}") as file:
                file.write(text.encode())


def page_of_several(split: str, report: Mapping[str, Any]) -> str:
    """Return a page in Markdown for images with several classes: mean scores, classes, and calibration."""
    columns = ("AP", "precision", "recall", "F1", "best_F1")
    rows = "\n".join(
        f"| {_cell(row['name'])} | {row['images']} | {row['predicted']} | "
        f"{' | '.join(_percent(row[name]) for name in columns)} | {_number(row['best_threshold'])} |"
        for row in report["classes"]
    )
    return (
        f"# Classes of {split}: {plural(report['images'], 'image')}\n\n"
        f"A class is predicted from a probability of {report['threshold']:g}.\n\n"
        f"| score | percent |\n| --- | ---: |\n{_metrics(report)}\n\n"
        "## Classes\n\n| class | images | predicted | AP | precision | recall | F1 | best F1 | its threshold |\n"
        f"| --- {'| ---: ' * 8}|\n{rows}\n\n"
        f"{_calibration(report['calibration'], 'class of an image', 'present')}"
    )


def page(split: str, report: Mapping[str, Any]) -> str:
    """Return a page in Markdown: accuracies, classes, the most frequent confusions, and calibration."""
    names = [_cell(row["name"]) for row in report["classes"]]
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
    return (
        f"# Classes of {split}: {plural(report['images'], 'image')}\n\n"
        f"| accuracy | percent |\n| --- | ---: |\n{_metrics(report)}\n\n"
        f"## Classes\n\n| class | images | predicted | accuracy |\n| --- | ---: | ---: | ---: |\n{rows}\n\n"
        f"## Most frequent confusions\n\n| true class | predicted class | images |\n| --- | --- | ---: |\n{pairs}\n\n"
        f"{_calibration(report['calibration'], 'image', 'accuracy')}"
    )


def _metrics(report: Mapping[str, Any]) -> str:
    """Return the rows of the mean scores."""
    return "\n".join(f"| {name} | {_percent(value)} |" for name, value in report["metrics"].items() if name != "loss")


def _calibration(found: Mapping[str, Any], unit: str, right: str) -> str:
    """Return the section about calibration."""
    bins = "\n".join(
        f"| {_percent(row['from'])} to {_percent(row['to'])} | {row['images']} | {_percent(row['confidence'])} "
        f"| {_percent(row['accuracy'])} |"
        for row in found["bins"]
    )
    return (
        "## Calibration\n\n"
        f"A classifier is calibrated if its confidence is the fraction that is right. Each {unit} counts once. "
        f"The expected calibration error is {_percent(found['error'])} percent.\n\n"
        f"| confidence | number | mean confidence | {right} |\n| --- | ---: | ---: | ---: |\n{bins}\n"
    )


def _cell(name: str) -> str:
    """Return the name of a class for a table of Markdown."""
    return shown(name, 60).replace("|", "\\|")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"

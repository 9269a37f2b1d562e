"""Write the tables of the pages in :data:`PAGES` from the measurements in ``docs/benchmarks/results.json``.

Add a measurement to the JSON file, then run ``python tools/docs/results.py``. In a page, a comment
``<!-- results: NAME -->`` stands before each table. Ratios are measured, too: they are medians over rounds, and no
quotients of the medians.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks" / "results.md"
PAGES = (PAGE, ROOT / "docs" / "reference" / "exports.md")
MEASURED = PAGE.with_suffix(".json")
PLACE = re.compile(r"(?<=^<!-- results: )([\w-]+)( -->\n)(?:\n\|.*(?:\n\|.*)*\n)?", re.MULTILINE)
"""A comment, with the table below it."""

Row = dict[str, Any]


def training(rows: list[Row]) -> str:
    """Return the table of training speeds; each machine links to its log."""
    cells = (
        (
            f"[{row['machine']}]({row['page']}), {row['setting']}",
            *_speeds(row),
            "–".join(row["memory"]),
        )
        for row in rows
    )
    return table("machine|image side, images|toolkit:|torchvision:|faster:|memory:", cells)


def inference(rows: list[Row]) -> str:
    """Return the table of inference speeds."""
    cells = ((f"{row['machine']}, {row['setting']}", *_speeds(row)) for row in rows)
    return table("machine|image side, images|toolkit:|torchvision:|faster:", cells)


def loading(rows: list[Row]) -> str:
    """Return the table of loading speeds."""
    cells = ((row["machine"], *_speeds({**row, "images": None})[1:]) for row in rows)
    return table("machine|toolkit:|torchvision:|faster:", cells)


def evaluation(rows: list[Row]) -> str:
    """Return the table of evaluation times."""
    return table("what|time:", ((row["what"], row["time"]) for row in rows))


def nuclei(rows: list[Row]) -> str:
    """Return the table of AP, in percent."""
    return table("|seed:|box AP:|box AP50:|mask AP:|mask AP50:", (tuple(map(str, row.values())) for row in rows))


def exports(rows: list[Row]) -> str:
    """Return the table of exports; ``tools/docs/exports.py`` measures it."""
    names = ("boxes", "scores", "masks", "keypoints", "probabilities", "semantic", "panoptic")
    cells = (
        (
            row["detector"],
            row["format"],
            "passed" if row["passed"] else "**failed**",
            *(_small(row.get(name)) for name in names),
            f"{row['sensitive']} of {row['found']}" if row.get("found") else "–",
            f"{row['megabytes']} MB",
        )
        for row in rows
    )
    head = "detector|format|gate|boxes, pixels:|scores:|masks:|keypoints, pixels:|classes of pixels:|"
    return table(head + "semantic, equal pixels %:|panoptic, equal pixels %:|sensitive:|file:", cells)


def _small(value: Any) -> str:
    return "–" if value is None else str(value)


TABLES: dict[str, Callable[[list[Row]], str]] = {
    one.__name__: one for one in (training, inference, loading, evaluation, nuclei, exports)
}


def _speeds(row: Row) -> tuple[str, ...]:
    ours, theirs = (f"{row[side]} {row['unit']}" for side in ("toolkit", "torchvision"))
    return str(row["images"]), ours, theirs, str(row["faster"])


def table(head: str, rows: Any) -> str:
    """Return a table of Markdown.

    Args:
        head: names of the columns; a colon at the end of a name aligns its column to the right.
    """
    names = head.split("|")
    lines = [[name.rstrip(":") for name in names], ["---:" if name.endswith(":") else "---" for name in names], *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def page(text: str, rows: dict[str, list[Row]]) -> str:
    """Return the page with the tables of these measurements."""
    return PLACE.sub(lambda place: f"{place[1]}{place[2]}\n{TABLES[place[1]](rows[place[1]])}\n", text)


def measured() -> dict[str, list[Row]]:
    """Return the measurements; fractions are texts, with the digits that were measured."""
    found: dict[str, list[Row]] = json.loads(MEASURED.read_text(encoding="utf-8"), parse_float=str)
    return found


def main() -> None:
    """Write the pages."""
    for path in PAGES:
        path.write_text(page(path.read_text(encoding="utf-8"), measured()), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Findings of the doctor, as text and as plain data."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from detection.foreign import shown
from detection.wording import plural

Severity = Literal["error", "warning", "info"]
ORDER: tuple[Severity, ...] = ("error", "warning", "info")
NAMES: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
"""Names of the severities in the output."""


@dataclass(frozen=True)
class Finding:
    """One problem, or one fact worth knowing."""

    severity: Severity
    """error: training would stop, or learn wrong labels. warning: objects or images are lost. info: good to know."""
    split: str
    what: str
    advice: str = ""
    ids: tuple[str, ...] = ()
    """The first IDs of images or annotations with the problem."""
    count: int = 1


@dataclass(frozen=True)
class Table:
    """A table of numbers with a title."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    note: str = ""


@dataclass
class Diagnosis:
    """All findings and tables of an examination."""

    findings: list[Finding] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    examples: dict[str, list[int]] = field(default_factory=dict)
    """Indices of training images to show, by their unusual property."""
    images: dict[str, int] = field(default_factory=dict)
    """Number of images by split."""

    def add(
        self, severity: Severity, split: str, what: str, advice: str = "", ids: Sequence[object] = (), count: int = 1
    ) -> None:
        """Add a finding."""
        self.findings.append(Finding(severity, split, what, advice, tuple(shown(i) for i in ids[:10]), count))

    def exit_code(self, strict: bool = False) -> int:
        """Return 2 if there is an error, 1 if there is a warning and ``strict`` is true, else 0."""
        worst = {finding.severity for finding in self.findings}
        return 2 if "error" in worst else 1 if strict and "warning" in worst else 0

    def summary(self) -> str:
        """Summarise the diagnosis in one sentence."""
        severities = Counter(finding.severity for finding in self.findings)
        counts = [plural(severities[one], NAMES[one]) for one in ORDER if severities[one]]
        images = [plural(count, f"{split} image") for split, count in self.images.items()]
        where = f" in {_and(images)}" if images else ""
        return f"{_and(counts) or 'No problems'}{where}."

    def text(self) -> str:
        """Write the diagnosis for a terminal."""
        lines = [self.summary()]
        for finding in sorted(self.findings, key=lambda f: ORDER.index(f.severity)):
            ids = (
                f" ({', '.join(finding.ids)}{', ...' if finding.count > len(finding.ids) else ''})"
                if finding.ids
                else ""
            )
            advice = f"; {finding.advice}" if finding.advice else ""
            lines.append(f"{NAMES[finding.severity]:8s}{finding.split}: {finding.what}{ids}{advice}")
        for table in self.tables:
            lines += ["", table.title, *_aligned(table)]
            lines += [table.note] if table.note else []
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """Return the diagnosis for JSON."""
        return {
            "summary": self.summary(),
            "findings": [asdict(finding) for finding in self.findings],
            "tables": [asdict(table) for table in self.tables],
        }


def cell(value: Any) -> str:
    """Write a value of a table."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _aligned(table: Table) -> list[str]:
    rows = [[cell(value) for value in row] for row in table.rows]
    rows = [[*table.heads], *rows] if any(table.heads) else rows
    widths = [max(len(row[k]) for row in rows) for k in range(len(table.heads))]
    return ["  " + "  ".join(f"{row[k]:<{widths[k]}}" for k in range(len(widths))).rstrip() for row in rows]


def _and(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)

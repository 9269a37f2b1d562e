"""What the doctor found, and how it is told."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from detection.foreign import shown

Severity = Literal["error", "warning", "info"]
ORDER: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One thing."""

    severity: Severity
    """error: training would stop, or learn something wrong. warning: something is lost. info: good to know."""
    split: str
    what: str
    advice: str = ""
    ids: tuple[str, ...] = ()
    """Of images or annotations, the first few."""
    count: int = 1


@dataclass(frozen=True)
class Table:
    """Numbers under a title."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    note: str = ""


@dataclass
class Diagnosis:
    """Everything."""

    findings: list[Finding] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    suspicious: dict[str, list[int]] = field(default_factory=dict)
    """Image numbers worth looking at, by what is odd about them; of the training split."""

    def add(
        self, severity: Severity, split: str, what: str, advice: str = "", ids: Sequence[object] = (), count: int = 1
    ) -> None:
        """One more finding."""
        self.findings.append(Finding(severity, split, what, advice, tuple(shown(i) for i in ids[:10]), count))

    def exit_code(self, strict: bool = False) -> int:
        """2 if there is an error; with ``strict`` 1 if there is a warning; else 0."""
        worst = {finding.severity for finding in self.findings}
        return 2 if "error" in worst else 1 if strict and "warning" in worst else 0

    def text(self) -> str:
        """For a terminal."""
        lines = []
        for finding in sorted(self.findings, key=lambda f: ORDER.index(f.severity)):
            ids = (
                f" ({', '.join(finding.ids)}{', ...' if finding.count > len(finding.ids) else ''})"
                if finding.ids
                else ""
            )
            advice = f"; {finding.advice}" if finding.advice else ""
            lines.append(f"{finding.severity:8s}{finding.split}: {finding.what}{ids}{advice}")
        for table in self.tables:
            lines += ["", table.title, *_aligned(table)]
            lines += [table.note] if table.note else []
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "tables": [asdict(table) for table in self.tables],
        }


def cell(value: Any) -> str:
    """As it is shown."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _aligned(table: Table) -> list[str]:
    rows = [table.heads, *([cell(value) for value in row] for row in table.rows)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(table.heads))]
    return ["  " + "  ".join(f"{row[k]:<{widths[k]}}" for k in range(len(widths))).rstrip() for row in rows]

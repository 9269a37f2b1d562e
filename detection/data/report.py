"""What was found wrong in an annotation file and mended: how often, and where."""

from pathlib import Path

from detection.foreign import printable, shown


class Report:
    """Counts by kind, with the first ids of each."""

    def __init__(self, path: Path, examples: int = 10) -> None:
        self.path = path
        self.counts: dict[str, int] = {}
        self.ids: dict[str, list[object]] = {}
        self._examples = examples

    def warn(self, kind: str, identity: object) -> None:
        """Count one more of a kind."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= self._examples:
            self.ids.setdefault(kind, []).append(identity)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        lines = [f"{self.path}:"]
        for kind, count in self.counts.items():
            ids = ", ".join(map(shown, self.ids[kind])) + (", ..." if count > self._examples else "")
            lines.append(f"  {count} {kind}: {ids}")
        return printable("\n".join(lines))

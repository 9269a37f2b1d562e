"""Collect the problems of an annotation file: their kind, how often each occurs, and where."""

from pathlib import Path

from detection.coco.hint import WIDESPREAD, Hint
from detection.foreign import printable, shown
from detection.wording import of_kind


class Problems:
    """Number of problems per kind, with the first IDs of each.

    Args:
        path: the annotation file, or a name for it.
        examples: number of IDs to keep for each kind.
        strict: raise an error instead of dropping an entry. Evaluation uses it, because a score without the dropped
            entries would be a different number.

    Attributes:
        counts: number of problems of each kind.
        ids: the first IDs of each kind.
        totals: number of all objects that could have a kind of problem, if known.
        quiet: kinds that change nothing; only ``rcnn doctor`` reports them.
        hints: likely problems of the whole file.
    """

    def __init__(self, path: str | Path, examples: int = 10, strict: bool = False) -> None:
        self.path, self.strict = path, strict
        self.counts: dict[str, int] = {}
        self.ids: dict[str, list[object]] = {}
        self.totals: dict[str, int] = {}
        self.quiet: set[str] = set()
        self.hints: list[Hint] = []
        self._examples = examples

    def empty(self) -> "Problems":
        """Return an empty instance for the same file, for checks whose result must not be counted."""
        return Problems(self.path, self._examples, self.strict)

    def warn(self, kind: str, identity: object) -> None:
        """Count one problem of a kind."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= self._examples:
            self.ids.setdefault(kind, []).append(identity)

    def drop(self, kind: str, identity: object) -> None:
        """Count one dropped entry of a kind.

        Raises:
            ValueError: ``strict`` is set.
        """
        if self.strict:
            what = kind.removesuffix(" (dropped)")
            raise ValueError(f"{self.path}: annotation {shown(identity)} has {what}; correct or remove it")
        self.warn(kind, identity)

    def note(self, kind: str, identity: object) -> None:
        """Count one problem of a kind that changes nothing."""
        self.quiet.add(kind)
        self.warn(kind, identity)

    def widespread(self, kind: str) -> bool:
        """Return whether a kind affects more than a tenth of all objects that could have it."""
        return self.counts[kind] > WIDESPREAD * self.totals.get(kind, self.counts[kind] * 100)

    def line(self, kind: str) -> str:
        """Return the count and the kind, with the percentage if it is widespread."""
        count = self.counts[kind]
        share = f", {count / self.totals[kind]:.0%} of {self.totals[kind]}" if self.widespread(kind) else ""
        return f"{of_kind(count, kind)}{share}"

    def described(self, kind: str) -> str:
        """Return the line of a kind with its first IDs."""
        ids = ", ".join(map(shown, self.ids[kind])) + (", ..." if self.counts[kind] > self._examples else "")
        return f"{self.line(kind)}: {ids}"

    def __bool__(self) -> bool:
        return bool(self.counts.keys() - self.quiet or self.hints)

    def __str__(self) -> str:
        lines = [f"{self.path}:"]
        lines += [f"  {self.described(kind)}" for kind in self.counts if kind not in self.quiet]
        lines += [f"  warning: {hint.text}" for hint in self.hints]
        return printable("\n".join(lines))

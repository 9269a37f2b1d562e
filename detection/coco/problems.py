"""What was found wrong in an annotation file: how often, and where."""

from pathlib import Path

from detection.coco.hint import WIDESPREAD, Hint
from detection.foreign import printable, shown
from detection.wording import of_kind


class Problems:
    """Counts by kind, with the first ids of each.

    Args:
        path: the annotation file, or a word for it.
        examples: ids to keep of each kind.
        strict: refuse a file of which something would be dropped, as a score of the rest would be another number.

    Attributes:
        counts: how often each kind was found.
        ids: the first ids of each kind.
        totals: how many there are of what a kind counts, where that is known.
        quiet: kinds that only the doctor reports, as they change nothing.
        hints: what is likely wrong with the file as a whole.
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
        """Return an empty account of the same file, for a question whose answer must not be counted."""
        return Problems(self.path, self._examples, self.strict)

    def warn(self, kind: str, identity: object) -> None:
        """Count one more of a kind."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= self._examples:
            self.ids.setdefault(kind, []).append(identity)

    def drop(self, kind: str, identity: object) -> None:
        """Count one more of a kind that is dropped.

        Raises:
            ValueError: if ``strict``.
        """
        if self.strict:
            what = kind.removesuffix(" (dropped)")
            raise ValueError(f"{self.path}: annotation {shown(identity)} has {what}; correct or remove them")
        self.warn(kind, identity)

    def note(self, kind: str, identity: object) -> None:
        """Count one more of a kind that changes nothing."""
        self.quiet.add(kind)
        self.warn(kind, identity)

    def widespread(self, kind: str) -> bool:
        """Whether a kind touches more than a tenth of all that there are."""
        return self.counts[kind] > WIDESPREAD * self.totals.get(kind, self.counts[kind] * 100)

    def line(self, kind: str) -> str:
        """The count and the kind, with its share where that is large."""
        count = self.counts[kind]
        share = f", {count / self.totals[kind]:.0%} of {self.totals[kind]}" if self.widespread(kind) else ""
        return f"{of_kind(count, kind)}{share}"

    def described(self, kind: str) -> str:
        """The line of a kind with its first ids."""
        ids = ", ".join(map(shown, self.ids[kind])) + (", ..." if self.counts[kind] > self._examples else "")
        return f"{self.line(kind)}: {ids}"

    def __bool__(self) -> bool:
        return bool(self.counts.keys() - self.quiet or self.hints)

    def __str__(self) -> str:
        lines = [f"{self.path}:"]
        lines += [f"  {self.described(kind)}" for kind in self.counts if kind not in self.quiet]
        lines += [f"  warning: {hint.text}" for hint in self.hints]
        return printable("\n".join(lines))

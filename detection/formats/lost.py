"""What a conversion could not carry over."""

from collections import Counter


class Lost:
    """Counts by kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, count: int = 1) -> None:
        """Count more of a kind."""
        if count:
            self.counts[kind] += count

    def __str__(self) -> str:
        if not self.counts:
            return "everything was carried over"
        return "not carried over:\n" + "\n".join(f"  {count} {kind}" for kind, count in self.counts.items())

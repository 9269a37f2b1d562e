"""Count what a conversion converted, changed and left out."""

from collections import Counter

from detection.foreign import shown
from detection.wording import of_kind, plural

MOST_CLASSES = 20
"""Number of classes to list; the other classes get one total."""


class Account:
    """Counts of images and objects by kind."""

    def __init__(self) -> None:
        self.images: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.forms: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.notes: list[str] = []

    def take_image(self, objects: int) -> None:
        """Count a converted image."""
        self.images["with objects" if objects else "without objects"] += 1

    def take(self, name: str, form: str) -> None:
        """Count a converted object by its class ``name`` and its ``form``, such as ``boxes``."""
        self.classes[name] += 1
        self.forms[form] += 1

    def change(self, kind: str, count: int = 1) -> None:
        """Count something that the conversion changed."""
        if count > 0:
            self.changed[kind] += count

    def lose(self, kind: str, count: int = 1) -> None:
        """Count something that the target format cannot store."""
        if count > 0:
            self.lost[kind] += count

    @property
    def objects(self) -> int:
        """Number of converted objects."""
        return self.classes.total()

    def summary(self) -> list[str]:
        """Return one line with the converted numbers, and one line for each kind of change or loss."""
        empty = self.images["without objects"]
        forms = ", ".join(of_kind(count, form) for form, count in self.forms.most_common())
        lines = [
            f"{plural(self.images.total(), 'image')} ({empty} without objects), {plural(self.objects, 'object')} of "
            f"{plural(len(self.classes), 'class')}: {forms}"
        ]
        for title, counts in (("changed", self.changed), ("left out", self.lost)):
            lines += [f"  {title}: {of_kind(count, kind)}" for kind, count in counts.items()]
        return lines

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.images.items()))
        lines = [
            f"converted: {plural(self.images.total(), 'image')} ({kinds or 'none'}), {plural(self.objects, 'object')}"
        ]
        if self.forms:
            lines.append("  as " + ", ".join(of_kind(count, form) for form, count in self.forms.most_common()))
        if self.classes:
            lines.append(f"  classes: {self._listed()}")
        lines += [f"  {note}" for note in self.notes]
        for title, counts in (("changed", self.changed), ("left out", self.lost)):
            lines.append(f"{title}:" if counts else f"{title}: nothing")
            lines += [f"  {of_kind(count, kind)}" for kind, count in counts.items()]
        return "\n".join(lines)

    def _listed(self) -> str:
        ordered = self.classes.most_common()
        first, rest = ordered[:MOST_CLASSES], ordered[MOST_CLASSES:]
        listed = ", ".join(f"{shown(name)} {count}" for name, count in first)
        return listed + (f", and {len(rest)} more with {sum(count for _, count in rest)}" if rest else "")

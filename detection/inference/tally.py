"""Count the objects of each class, and the images that contain them."""

from collections import Counter
from collections.abc import Sequence

from detection.foreign import shown
from detection.inference.prediction import Prediction
from detection.wording import plural

MOST_LINES = 20
"""Number of classes with their own line; one more line sums up the rarest ones."""


class Tally:
    """Count objects per class, and the images or frames that contain them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._objects: Counter[int] = Counter()
        self._images: Counter[int] = Counter()
        self._total = self._empty = 0
        self._shares: Counter[str] = Counter()

    def add(self, found: Prediction) -> None:
        """Count the detections of one image or frame."""
        labels = found.labels.tolist()
        self._objects.update(labels)
        self._images.update(set(labels))
        self._total += 1
        self._empty += not labels
        if found.maps is not None:
            self._shares.update(found.maps.shares())

    def counts(self) -> dict[str, int]:
        """Return the number of objects by class name, the most frequent first."""
        return {self._names[label]: number for label, number in self._objects.most_common()}

    def lines(self, one: str = "image", more: str = "images") -> list[str]:
        """Return the total, then a line per class, the most frequent first.

        Args:
            one, more: singular and plural of the counted unit.
        """
        total, images = self._objects.total(), plural(self._total, one, more)
        if self._shares and not total:
            most = self._shares.most_common(MOST_LINES)
            shares = ", ".join(f"{share / self._total:.1%} {shown(name)}" for name, share in most)
            return [f"pixels of {images}: {shares}"]
        if not total:
            return [f"found no objects in {images}; a lower --score shows less certain objects"]
        ordered = sorted(self._objects.items(), key=lambda item: (-item[1], item[0]))
        width = len(str(ordered[0][1]))
        lines = [f"found {plural(total, 'object')} in {self._total - self._empty} of {images}:"]
        lines += [
            f"  {n:{width}} {shown(self._names[k])} in {plural(self._images[k], one, more)}"
            for k, n in ordered[:MOST_LINES]
        ]
        if rest := ordered[MOST_LINES:]:
            lines.append(f"  {sum(n for _, n in rest):{width}} of {plural(len(rest), 'other class')}")
        return lines

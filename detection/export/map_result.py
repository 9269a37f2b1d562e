"""How the maps of an export differ from those of the detector; :mod:`.map_check` compares them."""

from dataclasses import asdict, dataclass
from typing import Any

from detection.export.options import EQUAL


@dataclass(frozen=True)
class MapDifference:
    """How the maps of an image differ."""

    image: str
    probabilities: float
    """Largest difference of the probability of a class, in cells that are not sensitive."""
    semantic: float
    """Share of the pixels with the same semantic class."""
    panoptic: float | None
    """Share of the pixels in the same segment; None for a Semantic FPN."""
    wrong: int
    """Cells whose probabilities differ by more than they may."""
    sensitive: int = 0
    """Cells whose probabilities move by more than the tolerance if rounding changes. They may differ as far."""
    vague: float = 0.0
    """Share of the cells whose probabilities move by far more than the tolerance."""
    least: tuple[float, float] = (EQUAL, EQUAL)
    """Smallest shares of equal pixels, semantic and panoptic, that pass: less if rounding changes more pixels."""
    noise: int = 0
    """Levels of noise in the image, which replaces the one before it."""

    @property
    def passes(self) -> bool:
        """Whether all differences are within the tolerances."""
        panoptic = self.panoptic is None or self.panoptic >= self.least[1]
        return not self.wrong and self.semantic >= self.least[0] and panoptic

    @property
    def decides(self) -> bool:
        """Whether the comparison proves something: most cells and pixels do not depend on rounding."""
        return self.vague <= 0.5 and min(self.least) >= 0.5


@dataclass(frozen=True)
class Maps:
    """The comparison of all maps."""

    differences: tuple[MapDifference, ...]

    @property
    def last(self) -> list[MapDifference]:
        """The differences without those of images that another one replaces."""
        followers = [*self.differences[1:], None]
        return [one for one, after in zip(self.differences, followers, strict=True) if not (after and after.noise)]

    @property
    def passed(self) -> bool:
        """Whether every image passes, and every image or its replacement decides."""
        decides = all(one.decides for one in self.last) and bool(self.differences)
        return decides and all(one.passes for one in self.differences)

    def line(self) -> str:
        """Return the result as text."""
        rows = self.differences
        most, least = max(one.probabilities for one in rows), min(one.semantic for one in rows)
        text = f"semantic maps: probabilities within {most:.1e}, equal pixels {100 * least:.3f} % or more"
        shares = [one.panoptic for one in rows if one.panoptic is not None]
        text += f"; panoptic maps: equal pixels {100 * min(shares):.3f} % or more" if shares else ""
        return text if self.passed else f"{text}; maps FAILED"

    def summary(self) -> list[dict[str, Any]]:
        """Return plain values."""
        return [asdict(one) for one in self.differences]

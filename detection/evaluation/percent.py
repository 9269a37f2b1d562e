"""How people read an AP: in percent, with one decimal. Files for programs hold fractions."""

import math


def percent(value: float, nothing: str = "–") -> str:
    """A fraction in percent with one decimal; ``nothing`` for NaN."""
    return nothing if math.isnan(value) else f"{100 * value:.1f}"

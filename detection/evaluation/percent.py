"""Format an AP for people, in percent with one decimal. Files for programs contain fractions."""

import math


def percent(value: float, nothing: str = "–") -> str:
    """Format a fraction in percent with one decimal; return ``nothing`` for NaN."""
    return nothing if math.isnan(value) else f"{100 * value:.1f}"

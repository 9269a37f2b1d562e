"""Choose the score threshold of each class on validation data: best F1, or a wanted precision or recall.

n detections of a class, by falling score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detection.foreign import is_number, shown

RULES = "best-f1, precision=NUMBER or recall=NUMBER, with a number above 0 and at most 1"


@dataclass(frozen=True)
class Rule:
    """What a threshold shall give."""

    kind: str
    """``best-f1``, ``precision`` or ``recall``."""
    wanted: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "best-f1" else f"{self.kind}={self.wanted:g}"


def parse_rule(text: str) -> Rule:
    """Return the rule of a text.

    Raises:
        ValueError: the text is no rule.

    Example:
        >>> parse_rule("precision=0.9").wanted
        0.9
    """
    kind, _, number = text.partition("=")
    if text == "best-f1":
        return Rule(text)
    if kind not in ("precision", "recall") or not is_number(number) or not 0 < float(number) <= 1:
        raise ValueError(f"--set-thresholds {shown(text)}: give {RULES}")
    return Rule(kind, float(number))


@dataclass(frozen=True)
class Point:
    """The threshold of a class, and what it gives on the data, with 95 % intervals over bootstrap samples of images."""

    threshold: float
    threshold_interval: tuple[float, float]
    precision: float
    precision_interval: tuple[float, float]
    recall: float
    recall_interval: tuple[float, float]
    reached: bool
    """Whether the data have a threshold with the wanted precision or recall."""


@dataclass(frozen=True)
class ClassDetections:
    """Detections of one class in all images, by falling score.

    Attributes:
        scores: (n,).
        right: (n,) 1 for a true positive at IoU 0.5, 0 for a false one.
        images: (n,) number of the image, from 0.
        objects: (images,) number of objects of the class.
    """

    scores: np.ndarray
    right: np.ndarray
    images: np.ndarray
    objects: np.ndarray


def choose(rule: Rule, found: ClassDetections, resamplings: int = 200, seed: int = 0) -> Point | None:
    """Return the threshold of a class; None without an object or without a true positive.

    The threshold lies between two scores, so that a rounding error of a score changes nothing.
    """
    count = len(found.objects)
    own = _Curve(found, np.ones(count))
    if not found.objects.sum() or not found.right.any():
        return None
    place, reached = own.place(rule)
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamplings):
        weights = np.bincount(generator.integers(count, size=count), minlength=count).astype(float)
        curve = _Curve(found, weights)
        if (weights * found.objects).sum() and curve.right[-1]:
            drawn.append((curve.threshold(curve.place(rule)[0]), curve.precision[place], curve.recall[place]))
    ends = [(float("nan"),) * 2] * 3
    if drawn:
        ends = [(float(low), float(high)) for low, high in np.percentile(np.array(drawn), [2.5, 97.5], axis=0).T]
    return Point(
        own.threshold(place), ends[0], float(own.precision[place]), ends[1], float(own.recall[place]), ends[2], reached
    )


class _Curve:
    """Precision and recall at each detection, with a weight for each image."""

    def __init__(self, found: ClassDetections, weights: np.ndarray) -> None:
        self.scores = found.scores
        own = weights[found.images]
        self.right = np.cumsum(own * found.right)
        total = np.cumsum(own)
        self.precision = self.right / np.maximum(total, 1e-12)
        objects = (weights * found.objects).sum()
        self.recall = self.right / max(objects, 1e-12)
        self.f1 = 2 * self.right / np.maximum(total + objects, 1e-12)
        # A threshold keeps all detections of one score, or none.
        self.cuts = np.flatnonzero(np.append(np.diff(found.scores) != 0, True))

    def place(self, rule: Rule) -> tuple[int, bool]:
        """Return the last detection that the threshold keeps, and whether it gives what the rule wants."""
        if rule.kind == "best-f1":
            return int(self.cuts[self.f1[self.cuts].argmax()]), True
        values = (self.precision if rule.kind == "precision" else self.recall)[self.cuts]
        good = np.flatnonzero(values >= rule.wanted - 1e-12)
        if not len(good):
            return int(self.cuts[values.argmax()]), False
        return int(self.cuts[good[-1 if rule.kind == "precision" else 0]]), True

    def threshold(self, place: int) -> float:
        """Return a threshold that keeps the detections up to a place."""
        below = self.scores[place + 1] if place + 1 < len(self.scores) else 0.0
        return float((self.scores[place] + below) / 2)


def temperature(scores: Sequence[float], right: Sequence[int]) -> float:
    """Return the divisor of the scores' logits with the least cross entropy (Guo et al. 2017, section 4.2).

    Args:
        scores: (n,) from 0 to 1.
        right: (n,) 1 for a true positive, 0 for a false one.
    """
    x = np.clip(np.asarray(scores, dtype=np.float64), 1e-6, 1 - 1e-6)
    logit, truth = np.log(x / (1 - x)), np.asarray(right, dtype=np.float64)

    def entropy(value: float) -> float:
        scaled = logit / value
        return float((np.logaddexp(0, scaled) - truth * scaled).mean())

    # The entropy has one minimum in the inverse of the temperature: narrow the range by golden sections.
    low, high, ratio = np.log(0.05), np.log(20.0), (5**0.5 - 1) / 2
    for _ in range(60):
        left, right_end = high - ratio * (high - low), low + ratio * (high - low)
        if entropy(float(np.exp(left))) < entropy(float(np.exp(right_end))):
            high = right_end
        else:
            low = left
    return float(np.exp((low + high) / 2))

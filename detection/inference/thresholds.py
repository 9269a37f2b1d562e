"""Score thresholds: one for all classes, or one per class."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from detection.foreign import is_number, shown
from detection.models.detector import Detector
from detection.models.thresholds import Thresholds
from detection.wording import plural

LEAST_SCORE = 0.5
"""Default score threshold of a class."""


def class_names(model: Detector) -> tuple[str, ...]:
    """Return the class names of a model; the class numbers as text if it has no names."""
    return model.categories.names if model.categories else tuple(str(k) for k in range(model.num_classes))


Scores = float | Mapping[str, float] | Literal["model"]
"""Score threshold of all classes, of classes by name, or ``model``: those of the model."""


def limits_of(model: Detector, threshold: Scores) -> Tensor:
    """Return the threshold of each class, (K,) float32.

    Raises:
        ValueError: as :func:`per_class`, or the model has no thresholds.
    """
    if threshold == "model":
        return own_thresholds(model).of_classes(LEAST_SCORE)
    if isinstance(threshold, str):
        raise ValueError(f"score_threshold is {shown(threshold)}; give a number, a dict of numbers, or model")
    return per_class(threshold, class_names(model))


def own_thresholds(model: Detector) -> Thresholds:
    """Return the thresholds that a model holds.

    Raises:
        ValueError: it holds none.
    """
    if model.thresholds is None:
        raise ValueError("the model has no score thresholds; choose them with rcnn evaluate --set-thresholds best-f1")
    return model.thresholds


def lines_of(model: Detector, most: int = 10) -> list[str]:
    """Return lines about the thresholds of a model, for the user."""
    own, names = own_thresholds(model), class_names(model)
    known = [(name, score) for name, score in zip(names, own.scores, strict=True) if score is not None]
    listed = ", ".join(f"{shown(name)} {score:.3f}" for name, score in known[:most])
    more = f" and {len(known) - most} more" if len(known) > most else ""
    rest = f", others {LEAST_SCORE:g}" if len(known) < len(names) else ""
    calibrated = f"; scores calibrated with temperature {own.temperature:.3g}" if own.temperature is not None else ""
    return [
        f"score thresholds of the model ({own.rule}, {plural(own.images, 'image')}): {listed}{more}{rest}{calibrated}"
    ]


def per_class(threshold: float | Mapping[str, float], names: Sequence[str]) -> Tensor:
    """Return the threshold of each class, (K,) float32.

    Raises:
        ValueError: a class is not in ``names``; the message suggests similar names.
    """
    if not isinstance(threshold, Mapping):
        return torch.full((len(names),), float(threshold))
    check_known(threshold, names, "score_threshold")
    return torch.tensor([float(threshold.get(name, LEAST_SCORE)) for name in names], dtype=torch.float32)


def read_thresholds(texts: Sequence[str], names: Sequence[str]) -> dict[str, float] | Literal["model"]:
    """Parse the score thresholds of a command line: ``0.5``, ``person=0.6``, or both; or ``model``.

    Args:
        texts: the arguments. A number without a name is for all classes that are not named. If a class occurs several
            times, the last value counts.
        names: class names of the model.

    Raises:
        ValueError: a score is outside 0 to 1 or has another form, or a class is not in ``names``.
    """
    if "model" in texts:
        if len(texts) > 1:
            raise ValueError("--score model: takes all thresholds from the model; leave the other scores out")
        return "model"
    rest, named = LEAST_SCORE, {}
    for text in texts:
        name, _, number = text.rpartition("=")
        value = _score(number, text)
        if name:
            named[name] = value
        else:
            rest = value
    check_known(named, names, "--score")
    return {name: named.get(name, rest) for name in names}


def check_known(wanted: Iterable[str], names: Sequence[str], where: str) -> None:
    """Check that the model has all these classes.

    Raises:
        ValueError: a class is unknown; the message suggests similar names.
    """
    unknown = [name for name in wanted if name not in names]
    if not unknown:
        return
    near = {match for name in unknown for match in difflib.get_close_matches(name[:60], names, n=3, cutoff=0.5)}
    listed = [name for name in names if name in near]
    hint = f"did you mean {', '.join(map(shown, listed))}?" if listed else _known(names)
    raise ValueError(f"{where}: the model has no class {', '.join(map(shown, unknown[:5]))}; {hint}")


def _known(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"it has {', '.join(map(shown, names[:most]))}{more}"


def _score(number: str, text: str) -> float:
    value = float(number) if is_number(number) else math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"--score {text}: must be a number from 0 to 1, CLASS=NUMBER such as person=0.6, or model")
    return value

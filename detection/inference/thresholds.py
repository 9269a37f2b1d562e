"""Score thresholds: one for all classes, or one per class."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from detection.foreign import is_number, shown
from detection.models.detector import Detector

LEAST_SCORE = 0.5
"""Default score threshold of a class."""


def class_names(model: Detector) -> tuple[str, ...]:
    """Return the class names of a model; the class numbers as text if it has no names."""
    return model.categories.names if model.categories else tuple(str(k) for k in range(model.num_classes))


def per_class(threshold: float | Mapping[str, float], names: Sequence[str]) -> Tensor:
    """Return the threshold of each class, (K,) float32.

    Raises:
        ValueError: a class is not in ``names``; the message suggests similar names.
    """
    if not isinstance(threshold, Mapping):
        return torch.full((len(names),), float(threshold))
    check_known(threshold, names, "score_threshold")
    return torch.tensor([float(threshold.get(name, LEAST_SCORE)) for name in names], dtype=torch.float32)


def read_thresholds(texts: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Parse the score thresholds of a command line: ``0.5``, ``person=0.6``, or both.

    Args:
        texts: the arguments. A number without a name is for all classes that are not named. If a class occurs several
            times, the last value counts.
        names: class names of the model.

    Raises:
        ValueError: a score is outside 0 to 1 or has another form, or a class is not in ``names``.
    """
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
        raise ValueError(f"--score {text}: must be a number from 0 to 1, or CLASS=NUMBER such as person=0.6")
    return value

"""The least score of a detection: one for all classes, or one per class by its name."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from detection.foreign import shown
from detection.models.rcnn import FasterRCNN

LEAST_SCORE = 0.5
"""The threshold of a class for which none was given."""


def class_names(model: FasterRCNN) -> tuple[str, ...]:
    """Return the names of a model's classes; their numbers if it knows no names."""
    return model.categories.names if model.categories else tuple(str(k) for k in range(model.num_classes))


def per_class(threshold: float | Mapping[str, float], names: Sequence[str]) -> Tensor:
    """Return the threshold of each class, (K,) float32.

    Raises:
        ValueError: a class that is not in ``names``, with the nearest ones.
    """
    if not isinstance(threshold, Mapping):
        return torch.full((len(names),), float(threshold))
    check_known(threshold, names, "score_threshold")
    return torch.tensor([float(threshold.get(name, LEAST_SCORE)) for name in names], dtype=torch.float32)


def read_thresholds(texts: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Read the threshold of each class from the words of a command line: ``0.5``, ``person=0.6``, or both.

    Args:
        texts: a number alone is for the classes that are not named; the last one for a class counts.

    Raises:
        ValueError: a score that is not a number from 0 to 1, or a class that is not in ``names``.
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
    """Refuse names of classes that a model does not know.

    Raises:
        ValueError: with the nearest names that it knows.
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
    return f"it knows {', '.join(map(shown, names[:most]))}{more}"


def _score(number: str, text: str) -> float:
    value = float(number) if _is_number(number) else math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"--score {text}: must be from 0 to 1, alone or behind a class and =, as person=0.6")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

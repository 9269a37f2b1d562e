"""The wrong images with the largest loss, for the report of a classifier."""

from typing import NamedTuple

import numpy as np

from detection.data.labelled import LabelledImages
from detection.data.labelled_dataset import LabelledDataset
from detection.evaluation.classification import Scored
from detection.evaluation.multi_label import THRESHOLD, ScoredSeveral
from detection.foreign import shown
from detection.report.pictures import Picture, data_url

WIDEST = 640
"""Largest width of an image on the page, in pixels."""


class Wrong(NamedTuple):
    """An image with a wrong prediction."""

    file: str
    text: str
    """Its true and its predicted classes."""
    drawn: Picture | None
    """None if the file cannot be read."""


def wrong_images(
    scored: Scored | ScoredSeveral, images: LabelledImages, data: LabelledDataset, number: int
) -> list[Wrong]:
    """Return the wrong images with the largest loss.

    Args:
        scored: what an evaluator kept.
        images: all images, by the indices of ``scored``.
        data: reads them.
        number: how many.
    """
    names = [shown(name, 40) for name in images.classes]
    if isinstance(scored, ScoredSeveral):
        places = np.flatnonzero(((scored.scores >= THRESHOLD) != scored.present).any(axis=1))
    else:
        places = np.flatnonzero(scored.best[:, 0] != scored.labels)
    found = []
    for place in places[np.argsort(-scored.losses[places], kind="stable")][:number].tolist():
        if isinstance(scored, ScoredSeveral):
            scores, rows = scored.scores[place], (scored.present[place], scored.scores[place] >= THRESHOLD)
            true, predicted = (
                ", ".join(f"{names[label]} {scores[label]:.2f}" for label in np.flatnonzero(row)) or "none"
                for row in rows
            )
        else:
            true = names[scored.labels[place]]
            predicted = f"{names[scored.best[place, 0]]} {scored.confidences[place]:.2f}"
        index = int(scored.indices[place])
        text = f"true: {true}; predicted: {predicted}"
        found.append(Wrong(images.files[index], text, _drawn(data, index)))
    return found


def _drawn(data: LabelledDataset, index: int) -> Picture | None:
    try:
        return Picture(data_url(np.ascontiguousarray(data.read(index).permute(1, 2, 0).numpy()), WIDEST))
    except ValueError:
        return None

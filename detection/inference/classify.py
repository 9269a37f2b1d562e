"""Classify images: return the classes of highest score, or all classes above a score.

K classes   k classes of an image that are kept
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbones.classifiers import Classifier
from detection.data.image import read_image, to_depth
from detection.data.labelled_dataset import centre_square
from detection.home import with_home

TOP = 5
"""Number of classes of an image by default, if it has one class."""
SCORE = 0.5
"""Smallest score of a class by default, if an image may have several."""

Image = str | Path | np.ndarray | Tensor
"""A file path; an (H, W, 3) uint8 or uint16 array; or a (3, H, W) uint8 or uint16 tensor, RGB."""


@dataclass(frozen=True)
class Classification:
    """Classes of an image, the highest score first; with several classes per image, perhaps none."""

    labels: np.ndarray
    """(k,) int64."""
    scores: np.ndarray
    """(k,) float32, probabilities by softmax over all classes; with several classes per image, by a sigmoid each."""
    names: tuple[str, ...]
    """Class names; the labels as text if the classifier does not know them."""


@torch.inference_mode()
def classify(
    model: Classifier, images: Sequence[Image], top: int | None = None, score: float | Tensor | None = None
) -> list[Classification]:
    """Return the classes of highest score of each image; for a multi-label classifier, those above a score.

    Args:
        model: the classifier. It runs in evaluation mode; its previous mode is restored afterwards.
        images: images of any size.
        top: number of classes of an image; at most K. None: 5, and all for a multi-label classifier.
        score: smallest score of a class, or (K,) of each class. None: no limit, and 0.5 for a multi-label classifier.

    Raises:
        ValueError: an image cannot be read or has the wrong shape or dtype, or ``top`` is below 1.

    Example:
        >>> [found] = classify(load_classifier("runs/flowers"), ["a.jpg"], top=3)  # doctest: +SKIP
        >>> found.names  # doctest: +SKIP
        ('daisy', 'rose', 'tulip')
    """
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; it must be at least 1")
    if not images:
        return []
    if model.multi_label:
        top, score = top or model.num_classes, SCORE if score is None else score
    top, score = top or TOP, -1.0 if score is None else score
    least = torch.as_tensor(score, dtype=torch.float32).expand(model.num_classes)
    made, trains = model.preprocessing, model.training
    square = centre_square(made.crop, made.resize, made.interpolation)
    batch = torch.stack([square(_tensor(image)) for image in images]).to(model.mean.device)
    try:
        logits = model.eval()(batch).float()
    finally:
        model.train(trains)
    scores = (logits.sigmoid() if model.multi_label else logits.softmax(dim=1)).cpu()
    best = scores.topk(min(top, scores.shape[1]), dim=1)
    return [_classification(model, *row, least) for row in zip(best.indices, best.values, strict=True)]


def _classification(model: Classifier, labels: Tensor, scores: Tensor, least: Tensor) -> Classification:
    kept = scores >= least[labels]
    labels, scores = labels[kept], scores[kept]
    names = tuple(str(label) if model.names is None else model.names[label] for label in labels.tolist())
    return Classification(labels.numpy(), scores.numpy(), names)


def _tensor(image: Image) -> Tensor:
    """Return an image as a tensor (3, H, W) uint8."""
    if isinstance(image, str | Path):
        image = read_image(Path(with_home(image)))
    array = image.detach().cpu().permute(1, 2, 0).numpy() if isinstance(image, Tensor) and image.ndim == 3 else image
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"image: expected RGB, an array (H, W, 3) or a tensor (3, H, W), got {tuple(image.shape)} {image.dtype}"
        )
    return torch.from_numpy(np.ascontiguousarray(to_depth(array, 8))).permute(2, 0, 1)

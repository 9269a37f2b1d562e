"""Classify images: return the classes of highest score.

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
"""Number of classes of an image by default."""

Image = str | Path | np.ndarray | Tensor
"""A file path; an (H, W, 3) uint8 or uint16 array; or a (3, H, W) uint8 or uint16 tensor, RGB."""


@dataclass(frozen=True)
class Classification:
    """The classes of highest score of an image, the highest first."""

    labels: np.ndarray
    """(k,) int64."""
    scores: np.ndarray
    """(k,) float32, probabilities by softmax over all classes."""
    names: tuple[str, ...]
    """Class names; the labels as text if the classifier does not know them."""


@torch.inference_mode()
def classify(model: Classifier, images: Sequence[Image], top: int = TOP) -> list[Classification]:
    """Return the classes of highest score of each image.

    Args:
        model: the classifier. It runs in evaluation mode; its previous mode is restored afterwards.
        images: images of any size.
        top: number of classes of an image; at most K.

    Raises:
        ValueError: an image cannot be read or has the wrong shape or dtype, or ``top`` is below 1.

    Example:
        >>> [found] = classify(load_classifier("runs/flowers"), ["a.jpg"], top=3)  # doctest: +SKIP
        >>> found.names  # doctest: +SKIP
        ('daisy', 'rose', 'tulip')
    """
    if top < 1:
        raise ValueError(f"top is {top}; it must be at least 1")
    if not images:
        return []
    made, trains = model.preprocessing, model.training
    square = centre_square(made.crop, made.resize, made.interpolation)
    batch = torch.stack([square(_tensor(image)) for image in images]).to(model.mean.device)
    try:
        scores = model.eval()(batch).float().softmax(dim=1)
    finally:
        model.train(trains)
    best = scores.topk(min(top, scores.shape[1]), dim=1)
    return [_classification(model, *row) for row in zip(best.indices.cpu(), best.values.cpu(), strict=True)]


def _classification(model: Classifier, labels: Tensor, scores: Tensor) -> Classification:
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

"""Load a detector, and detect the objects in images: ``predict(model, "street.jpg")``."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from detection import fast
from detection.convert.pretrained import load_pretrained
from detection.device import find_device
from detection.home import with_home
from detection.inference.detect import detect, encoded, take
from detection.inference.images import Image, pixels_of
from detection.inference.options import check_apart, sides, size_of
from detection.inference.prediction import Prediction
from detection.inference.thresholds import LEAST_SCORE, class_names, per_class
from detection.inference.tiles import detect_in_tiles
from detection.inference.views import detect_in_views
from detection.models.rcnn import FasterRCNN
from detection.ops import boxes as box_ops
from detection.structures import Detections


def load_model(source: str | Path, trust_code: bool = False, device: str | torch.device = "cpu") -> FasterRCNN:
    """Load a trained detector, in evaluation mode.

    Args:
        source: a checkpoint of this toolkit; the folder of a run (its ``best.ckpt``, else ``last.ckpt``); or anything
            that :mod:`detection.convert.pretrained` reads, as ``torchvision:maskrcnn_resnet50_fpn_v2``.
            :func:`~detection.convert.zoo.list_models` lists the published ones.
        trust_code: import the custom backbone that a checkpoint names, which runs its code.
        device: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` is the GPU if there is one.

    Raises:
        ValueError: the source cannot be found or read, or holds no detector that is known here; or no such device.
    """
    place = find_device(device)
    return fast.convert(load_pretrained(str(source), trust_code).build()).to(place)


@overload
def predict(
    model: FasterRCNN,
    image: Image,
    score_threshold: float | Mapping[str, float] = LEAST_SCORE,
    size: tuple[int, int] | None = None,
    tile: int | None = None,
    short_sides: Sequence[int] = (),
    flip: bool = False,
) -> Prediction: ...


@overload
def predict(
    model: FasterRCNN,
    image: list[Image] | list[str] | list[Path] | list[np.ndarray] | list[Tensor],
    score_threshold: float | Mapping[str, float] = LEAST_SCORE,
    size: tuple[int, int] | None = None,
    tile: int | None = None,
    short_sides: Sequence[int] = (),
    flip: bool = False,
) -> list[Prediction]: ...


def predict(
    model: FasterRCNN,
    image: Image | Sequence[Image],
    score_threshold: float | Mapping[str, float] = LEAST_SCORE,
    size: tuple[int, int] | None = None,
    tile: int | None = None,
    short_sides: Sequence[int] = (),
    flip: bool = False,
) -> Prediction | list[Prediction]:
    """Detect the objects in an image, or in each image of a list.

    Args:
        model: used in evaluation mode and left in the mode it was in.
        image: a file; an (H, W, C) uint8 or uint16 array; or a (C, H, W) tensor of these; RGB if C is 3. C is that of
            the model's images. Or a list of these, for which a list comes back (:func:`predict_batch` is faster).
        score_threshold: drops detections with lower scores. By class names, as ``{"person": 0.6}``: for these classes;
            the others keep 0.5. The model itself drops detections below its own
            ``model.box_head.config.score_threshold`` (0.05 by default) first.
        size: shortest and longest side to resize to; the model's own ``test_size`` if None.
        tile: look at squares of this many pixels, 32 or more, for images much larger than those of the training.
        short_sides: look at the image at each of these sizes and merge the detections; not with ``size`` or ``tile``.
        flip: look at the mirrored image, too; not with ``tile``.

    Returns:
        Boxes in pixels of the image given, whatever size the model saw.

    Raises:
        ValueError: not an image, with the file's name; an array or tensor of another shape or type; a size below 1; a
            threshold for a class that the model does not know; or options that do not go together.

    Example:
        >>> found = predict(model, "street.jpg")  # doctest: +SKIP
        >>> [(one.name, one.score) for one in found]  # doctest: +SKIP
    """
    if isinstance(image, list | tuple) and not any(isinstance(one, int | float | list | tuple) for one in image):
        return [predict(model, one, score_threshold, size, tile, short_sides, flip) for one in image]
    _check_model(model)
    thresholds = per_class(score_threshold, class_names(model))
    size = None if size is None else size_of(size)
    short_sides = sides("short_sides", short_sides, "a list of sides") if np.size(short_sides) else ()
    check_apart({"size": size, "tile": tile is not None, "short_sides": short_sides, "flip": flip})
    pixels = pixels_of(image, model)  # type: ignore[arg-type]  # no list any more
    if tile is not None:
        found = detect_in_tiles(model, pixels, tile, size=size)
    else:
        found = detect_in_views(model, [pixels], short_sides, flip, size)[0]
    return _prediction(model, found, image, pixels, thresholds)  # type: ignore[arg-type]


def predict_batch(
    model: FasterRCNN,
    images: Sequence[str | Path | np.ndarray | Tensor],
    score_threshold: float | Mapping[str, float] = LEAST_SCORE,
    size: tuple[int, int] | None = None,
) -> list[Prediction]:
    """Detect the objects in several images at once; faster for images of similar shape.

    Args:
        images: each as :func:`predict` takes it.

    Raises:
        ValueError: as :func:`predict`; or one image that is not in a list.
    """
    _check_model(model)
    if isinstance(images, str) or not isinstance(images, Iterable) or getattr(images, "ndim", 4) != 4:
        raise ValueError("images: expected a list of images, got one; give [image], or use predict")
    thresholds = per_class(score_threshold, class_names(model))
    size = None if size is None else size_of(size)
    pixels = [pixels_of(image, model) for image in images]
    found = detect(model, pixels, size) if pixels else []
    return [_prediction(model, *one, thresholds) for one in zip(found, images, pixels, strict=True)]


def _prediction(
    model: FasterRCNN, found: Detections, image: Image, pixels: np.ndarray, thresholds: Tensor
) -> Prediction:
    """Drop low scores, encode the masks and clip the boxes."""
    height, width, channels = pixels.shape
    found = take(found, found.scores >= thresholds[found.labels])
    rles = encoded(model, found, height, width)
    boxes = box_ops.clip(found.boxes[None], found.labels.new_tensor([[height, width]]))[0]
    return Prediction(
        boxes.float().numpy(),
        found.scores.numpy(),
        found.labels.numpy(),
        (height, width),
        rles,
        model.categories,
        Path(with_home(image)) if isinstance(image, str | Path) else pixels,
        channels,
    )


def _check_model(model: Any) -> None:
    if not isinstance(model, FasterRCNN):
        raise ValueError(
            f"model is a {type(model).__name__}; give the detector that load_model returns, then the image"
        )

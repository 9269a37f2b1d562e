"""Load a detector, and detect the objects in images: ``predict(model, "street.jpg")``."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from backbones.classifiers import Classifier
from detection import fast
from detection.categories import Categories
from detection.classifier_files import classifier_file, load_classifier
from detection.convert.pretrained import load_pretrained
from detection.device import find_device
from detection.evaluation.maps import Merging, segments_of
from detection.export.exported_classifier import find_exported
from detection.export.loading import is_exported, load_exported
from detection.home import with_home
from detection.inference.classify import classify
from detection.inference.detect import detect, encoded, take
from detection.inference.images import Image, pixels_of
from detection.inference.maps import PredictedMaps
from detection.inference.options import check_apart, sides, size_of
from detection.inference.prediction import Prediction
from detection.inference.thresholds import LEAST_SCORE, Scores, limits_of, own_thresholds, per_class
from detection.inference.tiles import detect_in_tiles
from detection.inference.views import detect_in_views
from detection.models.detector import Detector
from detection.models.mask_forms import has_rounded_frames
from detection.models.panoptic import SemanticFPN, WithSemanticHead
from detection.ops import boxes as box_ops
from detection.structures import Detections


def load_model(
    source: str | Path, trust_code: bool = False, device: str | torch.device = "cpu", unchecked: bool = False
) -> Detector:
    """Load a trained detector, in evaluation mode.

    The source may also be a classifier, which :func:`predict` takes. For type checkers, use
    :func:`~detection.classifier_files.load_classifier`.

    Args:
        source: a checkpoint of this toolkit; a run folder (its ``model.safetensors``, else ``best.ckpt``, else
            ``last.ckpt``); an export (``model.onnx``, or its folder); or any source that
            :mod:`detection.convert.pretrained` reads, such as ``torchvision:maskrcnn_resnet50_fpn_v2``.
            :func:`~detection.convert.zoo.list_models` lists the published models.
        trust_code: import the custom backbone that the checkpoint names. This runs the code of the backbone. Also
            load an export with the format ``torch``, whose file can run code.
        device: ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` uses the GPU if there is one.
        unchecked: also load an export that did not pass its parity gate, or has none.

    Raises:
        ValueError: the source does not exist, cannot be read or contains no supported detector; or the device does
            not exist. Also if an export did not pass its parity gate.

    Example:
        >>> model = load_model("torchvision:maskrcnn_resnet50_fpn_v2", device="auto")  # doctest: +SKIP
    """
    found = find_classifier(source, trust_code, device, unchecked)
    if found is not None:
        return found  # type: ignore[return-value]  # see the docstring
    return load_detector(source, trust_code, device, unchecked)


def find_classifier(
    source: str | Path, trust_code: bool = False, device: str | torch.device = "cpu", unchecked: bool = False
) -> Classifier | None:
    """Load a trained classifier as :func:`load_model` does; return None if the source is none."""
    path = with_home(str(source))
    if classifier_file(path) is not None:
        return load_classifier(path, find_device(device))
    exported = find_exported(path, trust_code, unchecked)
    return None if exported is None else exported.to(find_device(device))


def load_detector(
    source: str | Path, trust_code: bool = False, device: str | torch.device = "cpu", unchecked: bool = False
) -> Detector:
    """Load a trained detector as :func:`load_model` does, and reject a classifier.

    Raises:
        ValueError: as for :func:`load_model`, or the source is a classifier.
    """
    place = find_device(device)
    if is_exported(source):
        return load_exported(with_home(str(source)), unchecked, trust_code).to(place)
    return fast.convert(load_pretrained(str(source), trust_code).build()).to(place)


@overload
def predict(
    model: Detector,
    image: Image,
    score_threshold: Scores = LEAST_SCORE,
    size: tuple[int, int] | None = None,
    tile: int | None = None,
    short_sides: Sequence[int] = (),
    flip: bool = False,
) -> Prediction: ...


@overload
def predict(
    model: Detector,
    image: list[Image] | list[str] | list[Path] | list[np.ndarray] | list[Tensor],
    score_threshold: Scores = LEAST_SCORE,
    size: tuple[int, int] | None = None,
    tile: int | None = None,
    short_sides: Sequence[int] = (),
    flip: bool = False,
) -> list[Prediction]: ...


def predict(
    model: Detector,
    image: Image | Sequence[Image],
    score_threshold: Scores = LEAST_SCORE,
    size: tuple[int, int] | None = None,
    tile: int | None = None,
    short_sides: Sequence[int] = (),
    flip: bool = False,
) -> Prediction | list[Prediction]:
    """Detect the objects in an image, or in each image of a list.

    Args:
        model: the detector. It runs in evaluation mode; its previous mode is restored afterwards.
        image: a file path; an (H, W, C) uint8 or uint16 array; or a (C, H, W) uint8 or uint16 tensor. C is the number
            of channels of the model; 3 is RGB. For a list of images the function returns a list;
            :func:`predict_batch` is faster.
        score_threshold: smallest score of a detection, from 0 to 1. A dict such as ``{"person": 0.6}`` sets it for
            these classes; all others keep 0.5. ``"model"`` takes the thresholds that the model holds, and calibrates
            scores if the model holds a temperature; see ``rcnn evaluate --set-thresholds``. Before this, the model
            drops detections below its own ``model.box_head.config.score_threshold`` (0.05 by default).
        size: (shortest, longest) image side in pixels for the model; None uses the model's ``test_size``.
        tile: split the image into overlapping tiles of this side in pixels, at least 32. Use it for images that are
            much larger than the training images.
        short_sides: test-time augmentation: run the model at each of these sizes, and merge the detections. You cannot
            combine it with ``size`` or ``tile``.
        flip: test-time augmentation: also run the horizontally flipped image. You cannot combine it with ``tile``.

    Returns:
        The detections. Boxes are in pixels of the given image, at any ``size``. For a classifier, the five classes of
        highest score: :class:`~detection.inference.classify.Classification`.

    Raises:
        ValueError: this is not an image, or the array has the wrong shape or dtype. Also if a size is below 1, a
            threshold names an unknown class, or options cannot be combined.

    Example:
        >>> found = predict(model, "street.jpg")  # doctest: +SKIP
        >>> [(one.name, one.score) for one in found]  # doctest: +SKIP
    """
    if isinstance(model, Classifier):
        several = isinstance(image, list | tuple)
        limits = _limits_of_classes(model, score_threshold)
        found = classify(model, image if several else [image], score=limits)  # type: ignore[arg-type,list-item]
        return found if several else found[0]  # type: ignore[return-value]  # see the docstring
    if isinstance(image, list | tuple) and not any(isinstance(one, int | float | list | tuple) for one in image):
        return [predict(model, one, score_threshold, size, tile, short_sides, flip) for one in image]
    _check_model(model)
    limits = limits_of(model, score_threshold)
    size = None if size is None else size_of(size)
    short_sides = sides("short_sides", short_sides, "a list of sides") if np.size(short_sides) else ()
    check_apart({"size": size, "tile": tile is not None, "short_sides": short_sides, "flip": flip})
    pixels = pixels_of(image, model)  # type: ignore[arg-type]  # no list any more
    if tile is not None:
        found = detect_in_tiles(model, pixels, tile, size=size)
    else:
        found = detect_in_views(model, [pixels], short_sides, flip, size)[0]
    calibrated = score_threshold == "model"
    return _prediction(model, found, image, pixels, limits, calibrated)  # type: ignore[arg-type]


def predict_batch(
    model: Detector,
    images: Sequence[str | Path | np.ndarray | Tensor],
    score_threshold: Scores = LEAST_SCORE,
    size: tuple[int, int] | None = None,
) -> list[Prediction]:
    """Detect the objects in several images at once, which is faster for images of similar shape.

    Args:
        model: the detector, as for :func:`predict`.
        images: a list of images, each as for :func:`predict`.
        score_threshold: as for :func:`predict`.
        size: as for :func:`predict`.

    Returns:
        One prediction per image.

    Raises:
        ValueError: as for :func:`predict`, or ``images`` is a single image.

    Example:
        >>> [len(found) for found in predict_batch(model, ["a.jpg", "b.jpg"])]  # doctest: +SKIP
        [3, 0]
    """
    _check_model(model)
    if isinstance(images, str) or not isinstance(images, Iterable) or getattr(images, "ndim", 4) != 4:
        raise ValueError("images: expected a list of images, got one; give [image], or use predict")
    limits = limits_of(model, score_threshold)
    size = None if size is None else size_of(size)
    pixels = [pixels_of(image, model) for image in images]
    found = detect(model, pixels, size) if pixels else []
    calibrated = score_threshold == "model"
    return [_prediction(model, *one, limits, calibrated) for one in zip(found, images, pixels, strict=True)]


def predict_group(
    model: Detector,
    images: Sequence[Image],
    score_threshold: Scores = LEAST_SCORE,
    size: tuple[int, int] | None = None,
    tile: int | None = None,
    short_sides: Sequence[int] = (),
    flip: bool = False,
) -> list[Prediction]:
    """Detect the objects in some images: as one batch if possible, else one image after the other.

    Tiles and test-time augmentation need several runs per image, so these images are not batched.

    Args:
        model, images, score_threshold, size, tile, short_sides, flip: as for :func:`predict`.

    Raises:
        ValueError: as for :func:`predict`.
    """
    if tile is not None or flip or np.size(short_sides):
        return [predict(model, one, score_threshold, size, tile, short_sides, flip) for one in images]
    return predict_batch(model, images, score_threshold, size)


def _prediction(
    model: Detector, found: Detections, image: Image, pixels: np.ndarray, limits: Tensor, calibrated: bool
) -> Prediction:
    """Drop detections with low scores, calibrate the others if wanted, encode the masks, and clip the boxes."""
    height, width, channels = pixels.shape
    maps = maps_of(model, found)
    found = take(found._replace(semantic=None), found.scores >= limits[found.labels])
    if calibrated:
        found = found._replace(scores=own_thresholds(model).calibrated(found.scores))
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
        None if found.keypoints is None else found.keypoints.float().numpy(),
        maps,
    )


def maps_of(model: Detector, found: Detections) -> PredictedMaps | None:
    """Return the semantic map of one image and, for a Panoptic FPN, its segments; None without a semantic head."""
    if found.semantic is None or not isinstance(model, WithSemanticHead):
        return None
    semantic, config = found.semantic.numpy(), model.semantic_head.config
    names = tuple(str(k) for k in range(model.semantic_head.num_classes))
    categories = model.semantic_categories or Categories(names, tuple(range(len(names))))
    if isinstance(model, SemanticFPN):
        return PredictedMaps(semantic, categories)
    merging = Merging(config.overlap, config.stuff_area, config.score)
    ids, segments = segments_of(found._replace(semantic=None), semantic, merging, has_rounded_frames(model))
    own = tuple(str(k) for k in range(model.num_classes))
    things = model.categories or Categories(own, tuple(range(len(own))))
    return PredictedMaps(semantic, categories, ids, tuple(segments), things)


def _limits_of_classes(model: Classifier, threshold: Scores) -> Tensor | None:
    """Return the smallest score of each class of a multi-label classifier, (K,); None for others, which have ranks."""
    if not model.multi_label:
        return None
    if isinstance(threshold, str):
        raise ValueError("a classifier holds no score thresholds; give a number, or a dict of numbers")
    return per_class(threshold, model.names or tuple(map(str, range(model.num_classes))))


def _check_model(model: Any) -> None:
    if not isinstance(model, Detector):
        raise ValueError(
            f"model is a {type(model).__name__}, not a detector; pass the result of load_model first, then the image"
        )

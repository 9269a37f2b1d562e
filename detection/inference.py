"""From an image to what is in it: ``predict(model, "street.jpg")``.

Boxes XYXY in pixels of the image given, whatever size the model saw.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor

from detection import fast
from detection.coco.patches import rle_to_patch
from detection.convert.pretrained import load_pretrained
from detection.data.image import read_image, to_depth
from detection.home import with_home
from detection.models.rcnn import FasterRCNN
from detection.ops import boxes as box_ops
from detection.predicting.find import Found, encoded, find, find_in_views
from detection.predicting.options import check_apart
from detection.predicting.thresholds import LEAST_SCORE, class_names, per_class
from detection.predicting.tiles import find_in_tiles
from detection.structures import Categories

Image = str | Path | np.ndarray | Tensor
"""A file; an (H, W, C) uint8 or uint16 array; or a (C, H, W) tensor of these."""

__all__ = ["Prediction", "load_model", "predict", "predict_batch"]


@dataclass(frozen=True)
class Prediction:
    """What was found in one image, best first; n detections."""

    boxes: np.ndarray
    """(n, 4) float32 XYXY."""
    scores: np.ndarray
    """(n,) float32."""
    labels: np.ndarray
    """(n,) int64, 0..K-1."""
    size: tuple[int, int]
    """Height, width of the image."""
    rles: list[dict[str, Any]] | None = None
    """n masks as COCO RLE, ready for JSON; None without a mask head."""
    categories: Categories | None = None
    """Names of the labels and original category ids, if the model knows them."""

    @cached_property
    def masks(self) -> np.ndarray | None:
        """(n, H, W) bool; None without a mask head. Drawn when first asked for; ``rles`` takes far less memory."""
        if self.rles is None:
            return None
        masks = np.zeros((len(self), *self.size), dtype=bool)
        for k in range(len(self)):
            masks[k] = self.mask(k)
        return masks

    def __len__(self) -> int:
        return len(self.scores)

    def name(self, i: int) -> str:
        """The class name of the ``i``-th detection."""
        label = int(self.labels[i])
        return self.categories.names[label] if self.categories else str(label)

    def mask(self, i: int) -> np.ndarray:
        """(H, W) bool of the ``i``-th detection alone."""
        assert self.rles is not None, "this model has no mask head"
        return np.asarray(coco_mask.decode(self.rles[i]), dtype=bool)

    def only(self, keep: np.ndarray) -> "Prediction":
        """Some of the detections: (n,) bool, or (k,) int64 indices."""
        rles = None if self.rles is None else [self.rles[i] for i in np.arange(len(self))[keep]]
        return Prediction(
            self.boxes[keep], self.scores[keep], self.labels[keep], self.size, rles, self.categories
        )  # fmt: skip

    def supervision(self) -> dict[str, Any]:
        """Arguments for ``supervision.Detections``: ``sv.Detections(**found.supervision())``."""
        names = np.array([self.name(i) for i in range(len(self))])
        return {
            "xyxy": self.boxes,
            "confidence": self.scores,
            "class_id": self.labels,
            "mask": self.masks,
            "data": {"class_name": names},
        }

    def fiftyone(self) -> list[dict[str, Any]]:
        """Arguments for one ``fiftyone.Detection`` each: ``fo.Detection(**one)``; boxes as parts of the image."""
        height, width = self.size
        found = []
        for i, (x0, y0, x1, y1) in enumerate(self.boxes.astype(float)):
            box = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
            one: dict[str, Any] = {"label": self.name(i), "bounding_box": box, "confidence": float(self.scores[i])}
            if self.rles is not None:
                left, top, right, bottom = (int(v) for v in (np.floor(x0), np.floor(y0), np.ceil(x1), np.ceil(y1)))
                one["mask"] = rle_to_patch(self.rles[i]).window(top, left, bottom - top, right - left)
            found.append(one)
        return found


def load_model(source: str | Path, trust_code: bool = False) -> FasterRCNN:
    """A trained detector, in evaluation mode on the CPU.

    Args:
        source: a checkpoint of this toolkit; the folder of a run (its ``best.ckpt``, else ``last.ckpt``); or anything
            that :mod:`detection.convert.pretrained` reads, as ``torchvision:maskrcnn_resnet50_fpn_v2``.
        trust_code: import the custom backbone that a checkpoint names, which runs its code.

    Raises:
        ValueError: it cannot be found or read, or is no detector that is known here.
    """
    return fast.convert(load_pretrained(str(source), trust_code).build())


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
        score_threshold: detections scored below are left out. By class names, as ``{"person": 0.6}``: of their classes;
            the others keep 0.5. The model itself leaves out those below its own
            ``model.box_head.config.score_threshold`` (0.05 if nothing else was chosen), whatever is asked for here.
        size: shortest and longest side to resize to; the model's own ``test_size`` if None.
        tile: look at squares of so many pixels, for images much larger than those of the training; 32 at least.
        short_sides: look at the image at these sizes, and put together what was found; not with ``size`` or ``tile``.
        flip: look at it in a mirror, too; not with ``tile``.

    Raises:
        ValueError: not an image, with the file's name; an array or tensor of another shape or type; a size that is
            none; a threshold for a class that the model does not know; or ways to look at the image that do not go
            together.

    Example:
        >>> found = predict(model, "street.jpg")  # doctest: +SKIP
        >>> [(found.name(i), found.scores[i]) for i in range(len(found))]  # doctest: +SKIP
    """
    if isinstance(image, list | tuple) and not any(isinstance(one, int | float | list | tuple) for one in image):
        return [predict(model, one, score_threshold, size, tile, short_sides, flip) for one in image]
    _check_model(model)
    thresholds = per_class(score_threshold, class_names(model))
    size = None if size is None else _size(size)
    sides = _sides("short_sides", short_sides, "a list of sides") if np.size(short_sides) else ()
    check_apart({"size": size, "tile": tile is not None, "short_sides": sides, "flip": flip})
    pixels = _pixels(image, model)  # type: ignore[arg-type]  # no list any more
    if tile is not None:
        head = model.box_head.config
        found = find_in_tiles(
            model, pixels, tile, size=size, threshold=head.nms_threshold, across_classes=head.nms_across_classes
        )
    else:
        found = find_in_views(model, [pixels], sides, flip, size)[0]
    return _prediction(model, found, pixels, thresholds)


def predict_batch(
    model: FasterRCNN,
    images: Sequence[str | Path | np.ndarray | Tensor],
    score_threshold: float | Mapping[str, float] = LEAST_SCORE,
    size: tuple[int, int] | None = None,
) -> list[Prediction]:
    """Detect the objects in several images at once; faster where they have about one shape.

    Args:
        images: as :func:`predict` takes them.

    Raises:
        ValueError: as :func:`predict`; or one image that is not in a list.
    """
    _check_model(model)
    if isinstance(images, str) or not isinstance(images, Iterable) or getattr(images, "ndim", 4) != 4:
        raise ValueError("images: expected a list of images, got one; give [image], or use predict")
    thresholds = per_class(score_threshold, class_names(model))
    size = None if size is None else _size(size)
    pixels = [_pixels(image, model) for image in images]
    found = find(model, pixels, size) if pixels else []
    return [_prediction(model, one, image, thresholds) for one, image in zip(found, pixels, strict=True)]


def _prediction(model: FasterRCNN, found: Found, image: np.ndarray, thresholds: Tensor) -> Prediction:
    height, width = image.shape[:2]
    found = found.take(found.scores >= thresholds[found.labels])
    rles = encoded(model, found, height, width)
    boxes = box_ops.clip(found.boxes[None], found.labels.new_tensor([[height, width]]))[0]
    return Prediction(
        boxes.float().numpy(), found.scores.numpy(), found.labels.numpy(), (height, width), rles, model.categories
    )


def _check_model(model: Any) -> None:
    if not isinstance(model, FasterRCNN):
        raise ValueError(
            f"model is a {type(model).__name__}; give the detector that load_model returns, then the image"
        )


def _pixels(image: Image, model: FasterRCNN) -> np.ndarray:
    channels = len(model.pixel_mean)
    if isinstance(image, str | Path):
        if "://" in str(image):
            raise ValueError(f"image: {image} is a URL; download the file, and give its path")
        return read_image(Path(with_home(image)), channels=channels, depth=model.depth)
    array = _array(image)
    if array.ndim != 3 or array.shape[2] != channels or array.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"image: expected uint8 or uint16{' RGB' if channels == 3 else ''}, an array (H, W, {channels}) or a "
            f"tensor ({channels}, H, W), got {tuple(getattr(image, 'shape', array.shape))} {array.dtype} "
            f"({type(image).__name__}){_remedy(array, isinstance(image, Tensor), channels)}"
        )
    return to_depth(array, model.depth)


def _remedy(array: np.ndarray, is_tensor: bool, channels: int) -> str:
    """How to turn an array into an image, if that can be said."""
    last = 1 if is_tensor else 0  # where channels stand if they stand on the other side
    if array.ndim == 3 and array.shape[2] != channels and array.shape[last] == channels:
        return "; give image.permute(2, 0, 1)" if is_tensor else "; give image.transpose(1, 2, 0)"
    if array.ndim == 2 and array.size:
        return f"; repeat the one channel {channels} times" if channels > 1 else "; give it a channel"
    if array.ndim == 4 and len(array) == 1:
        return "; give image[0]"
    if array.dtype.kind == "f" and array.size:
        if not np.isfinite(array).all() or array.min() < 0:
            return "; give the image as it was before it was normalised"
        scale = " * 255" if array.max() <= 1 else ""
        return f"; give (image{scale}).{'round().byte()' if is_tensor else 'round().astype(np.uint8)'}"
    if array.dtype.kind in "iu" and array.size and array.min() >= 0:
        return f"; give image{'.byte()' if is_tensor else '.astype(np.uint8)'} if its values are 0 to 255"
    return ""


def _array(image: Any) -> np.ndarray:
    """(H, W, C) if it is an image; without a shape, and of objects, if NumPy makes no array of it."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = image.permute(1, 2, 0) if image.ndim == 3 else image
    try:
        return np.asarray(image)
    except (TypeError, ValueError):  # bfloat16; a list of arrays of several shapes
        return np.array(None)


def _size(given: Any) -> tuple[int, int]:
    shortest, longest = _sides("size", given, "(shortest, longest) side", 2)
    return shortest, longest


def _sides(name: str, given: Any, form: str, number: int | None = None) -> tuple[int, ...]:
    """Sides in whole pixels, so many of them."""
    sides = np.asarray(given)
    if sides.ndim != 1 or number not in (None, len(sides)) or sides.dtype.kind not in "iu" or (sides < 1).any():
        raise ValueError(f"{name} {given}: expected {form} in whole pixels, at least 1")
    return tuple(sides.tolist())

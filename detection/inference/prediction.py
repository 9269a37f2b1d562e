"""The objects found in one image: count, filter, draw, save and convert them.

n detections  H x W image  C channels
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from detection.categories import Categories
from detection.coco.keypoints import PIXEL_CENTRE
from detection.coco.patches import rle_to_patch
from detection.coco.rle import mask_areas
from detection.data.image import read_image
from detection.foreign import shown
from detection.inference.maps import PredictedMaps
from detection.inference.thresholds import check_known
from detection.visualize import draw, write_picture
from detection.wording import plural

MOST_NAMES = 5
"""Number of class names in the short text of a prediction."""
WIDEST = 1600
"""Longest side of an image in a notebook, in pixels."""


@dataclass(frozen=True, eq=False, repr=False)
class Detection:
    """One object of a :class:`Prediction`."""

    box: np.ndarray
    """(4,) float32 XYXY in pixels of the image."""
    score: float
    label: int
    """0..K-1."""
    name: str
    """Class name; the label as text if the model has no names."""
    size: tuple[int, int]
    """(height, width) of the image."""
    rle: dict[str, Any] | None = None
    """The mask as COCO RLE; None without a mask head."""
    keypoints: np.ndarray | None = None
    """(N, 3) float32 x, y in pixels of the image, and score; None without a keypoint head."""

    @cached_property
    def mask(self) -> np.ndarray | None:
        """The mask, (H, W) bool; None without a mask head. The first access decodes it."""
        return None if self.rle is None else np.asarray(coco_mask.decode(self.rle), dtype=bool)

    def __repr__(self) -> str:
        corners = " ".join(f"{value:.1f}" for value in self.box.tolist())
        return f"Detection({shown(self.name)} {self.score:.2f}, box {corners})"


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The objects found in one image, best first.

    Example:
        >>> found = predict(model, "street.jpg")  # doctest: +SKIP
        >>> found  # doctest: +SKIP
        Prediction(3 person, 1 bus; 1280 x 720)
        >>> for one in found.filter(score=0.8, classes=["person"]):  # doctest: +SKIP
        ...     print(one.name, one.score, one.box)
    """

    boxes: np.ndarray
    """(n, 4) float32 XYXY in pixels of the image."""
    scores: np.ndarray
    """(n,) float32."""
    labels: np.ndarray
    """(n,) int64, 0..K-1."""
    size: tuple[int, int]
    """Height, width of the image."""
    rles: list[dict[str, Any]] | None = None
    """n masks as COCO RLE, ready for JSON; None without a mask head."""
    categories: Categories | None = None
    """Class names and original category IDs, if the model has them."""
    image: Path | np.ndarray | None = None
    """The input image: the path of its file, or its pixels (H, W, C) without a copy; None if unknown."""
    channels: int = 3
    """Number of channels C to read from the image file."""
    keypoints: np.ndarray | None = None
    """(n, N, 3) float32 x, y in pixels of the image, and score; None without a keypoint head.

    N is the number of keypoints of the class with the most; see :meth:`keypoints_of` for those of one object."""
    maps: PredictedMaps | None = None
    """Semantic map and panoptic segments; None without a semantic head."""

    # Select detections.

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer) -> Detection: ...

    @overload
    def __getitem__(self, index: "slice | np.ndarray | Sequence[int]") -> "Prediction": ...

    def __getitem__(self, index: Any) -> "Detection | Prediction":
        """Return one detection for an integer; a prediction for a slice, indices or a condition (n,) bool."""
        if not isinstance(index, int | np.integer) or isinstance(index, bool | np.bool_):
            return self.only(index)
        i = range(len(self))[index]  # negative numbers, and an IndexError, as for a list
        rle = None if self.rles is None else self.rles[i]
        score, label = float(self.scores[i]), int(self.labels[i])
        return Detection(self.boxes[i], score, label, self.name(i), self.size, rle, self.keypoints_of(i))

    def only(self, keep: Any) -> "Prediction":
        """Return some detections, selected by a condition, (n,) bool, by indices, (k,) int64, or by a slice."""
        rles = None if self.rles is None else [self.rles[i] for i in np.arange(len(self))[keep]]
        points = None if self.keypoints is None else self.keypoints[keep]
        found = replace(self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep], rles=rles)
        return replace(found, keypoints=points)

    def filter(
        self, score: float | None = None, classes: str | Sequence[str] | None = None, min_area: float | None = None
    ) -> "Prediction":
        """Return the detections that meet all conditions.

        Args:
            score: smallest score to keep.
            classes: class names to keep.
            min_area: smallest area to keep, in pixels: of the mask, or of the box if there is no mask head.

        Raises:
            ValueError: the model does not have a class; the message suggests similar names.

        Example:
            >>> found.filter(score=0.8, classes="person")  # doctest: +SKIP
        """
        keep = np.ones(len(self), dtype=bool)
        if score is not None:
            keep &= self.scores >= score
        if classes is not None:
            classes = [classes] if isinstance(classes, str) else list(classes)
            if self.categories is not None:
                check_known(classes, self.categories.names, "filter")
            keep &= np.isin(self.names, classes)
        if min_area is not None:
            keep &= self._areas() >= min_area
        return self.only(keep)

    # Properties of the detections.

    def name(self, i: int) -> str:
        """Return the class name of detection ``i``; its label as text if the model has no names."""
        label = int(self.labels[i])
        return self.categories.names[label] if self.categories else str(label)

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.name(i) for i in range(len(self))]

    def mask(self, i: int) -> np.ndarray:
        """Decode and return the mask of detection ``i``, (H, W) bool."""
        assert self.rles is not None, "this model has no mask head"
        return np.asarray(coco_mask.decode(self.rles[i]), dtype=bool)

    @cached_property
    def masks(self) -> np.ndarray | None:
        """All masks, (n, H, W) bool; None without a mask head.

        The first access decodes them. ``rles`` takes far less memory.
        """
        if self.rles is None:
            return None
        masks = np.zeros((len(self), *self.size), dtype=bool)
        for k in range(len(self)):
            masks[k] = self.mask(k)
        return masks

    def keypoints_of(self, i: int) -> np.ndarray | None:
        """Return the keypoints that the class of detection ``i`` has, (N, 3); None without a keypoint head."""
        if self.keypoints is None:
            return None
        skeletons = self.categories.skeletons if self.categories else ()
        return self.keypoints[i, : len(skeletons[int(self.labels[i])].names)] if skeletons else self.keypoints[i]

    def counts(self) -> dict[str, int]:
        """Return the number of detections of each detected class, the most frequent first."""
        return dict(Counter(self.names).most_common())

    def __repr__(self) -> str:
        found = [f"{number} {shown(name)}" for name, number in self.counts().items()]
        if len(found) > MOST_NAMES:
            rest = sum(list(self.counts().values())[MOST_NAMES:])
            found[MOST_NAMES:] = [f"{rest} of {plural(len(found) - MOST_NAMES, 'other class')}"]
        height, width = self.size
        if self.maps is not None:
            found += [f"{share:.0%} {shown(name)}" for name, share in self.maps.shares().items()][:MOST_NAMES]
        return f"Prediction({', '.join(found) or 'no objects'}; {width} x {height})"

    # Images.

    def plot(
        self,
        *,
        boxes: bool = True,
        masks: bool = True,
        names: bool = True,
        scores: bool = True,
        image: np.ndarray | None = None,
        keypoints: bool = True,
    ) -> np.ndarray:
        """Draw the detections into a copy of the image.

        Args:
            boxes, masks, names, scores, keypoints: what to draw.
            image: (H, W, C) uint8 or uint16, to draw on instead of the image that you gave to ``predict``.

        Returns:
            (kH, kW, 3) uint8 RGB with an integer k >= 1. A small image is enlarged, so that its labels are readable.

        Raises:
            ValueError: the image is not known, or its file is missing or has another size now.
        """
        most = int(self.labels.max(initial=0)) + 1
        known = self.categories.names if self.categories else tuple(map(str, range(most)))
        pixels = self._pixels(image, "plot")
        return draw(
            pixels if self.maps is None else self.maps.drawn(pixels),
            self.boxes,
            self.labels,
            self.scores,
            self.rles if masks else None,
            known,
            with_boxes=boxes,
            with_names=names,
            with_scores=scores,
            keypoints=self.keypoints if keypoints else None,
            skeletons=self.categories.skeletons if self.categories else (),
        )

    def show(self) -> None:
        """Show the image of :meth:`plot` in the notebook, or in the system's image viewer.

        Raises:
            ValueError: as for :meth:`plot`, or there is no image viewer.
        """
        from PIL import Image, ImageShow

        picture = Image.fromarray(self.plot())
        shell = sys.modules.get("IPython")
        if shell is not None and hasattr(shell.get_ipython(), "kernel"):
            import_module("IPython.display").display(picture)
        elif not ImageShow.show(picture):
            raise ValueError("show: this system has no image viewer; use save(path)")

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the image of :meth:`plot`, and return its path.

        Args:
            path: output file; the suffix, such as ``.jpg`` or ``.png``, sets the format. The folder is created.
            options: arguments of :meth:`plot`.

        Raises:
            ValueError: as for :meth:`plot`, or the suffix is not an image format.
        """
        path = Path(path)
        picture = self.plot(**options)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, picture)
        return path

    def crop(self, margin: int = 0, image: np.ndarray | None = None) -> list[np.ndarray]:
        """Crop each detection from the image.

        Args:
            margin: extra pixels around each box.
            image: (H, W, C) uint8 or uint16, to crop from instead of the image that you gave to ``predict``.

        Returns:
            n arrays (h, w, C) of at least one pixel; they are copies.

        Raises:
            ValueError: as for :meth:`plot`.
        """
        pixels = self._pixels(image, "crop")
        height, width = self.size
        pieces = []
        for x0, y0, x1, y1 in self.boxes.astype(float):
            left, top = max(0, min(int(x0) - margin, width - 1)), max(0, min(int(y0) - margin, height - 1))
            right, bottom = (
                max(left + 1, min(int(np.ceil(x1)) + margin, width)),
                max(top + 1, min(int(np.ceil(y1)) + margin, height)),
            )
            pieces.append(pixels[top:bottom, left:right].copy())
        return pieces

    def _repr_png_(self) -> bytes | None:
        """Return a PNG for notebooks; None if the image is not available, and the notebook shows the text."""
        try:
            picture = self.plot()
        except ValueError:
            return None
        scale = WIDEST / max(picture.shape[:2])
        if scale < 1:
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())

    # Other formats.

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as plain values, ready for JSON.

        The keys are ``image`` (the path, or None), ``height``, ``width`` and ``detections``. Each detection has
        ``name``, ``label``, ``score``, ``box`` (XYXY in pixels) and, with a mask head, ``mask`` (COCO RLE). With a
        keypoint head it has ``keypoints``, each x, y and score. Boxes and keypoints are rounded to 0.001 pixels, scores
        to five digits. A semantic head adds ``semantic`` (the fraction of the pixels of each class) and ``segments``.
        """
        detections = []
        for i in range(len(self)):
            one: dict[str, Any] = {"name": self.name(i), "label": int(self.labels[i]), "score": self._score(i)}
            one["box"] = self._corners(i)
            if self.rles is not None:
                one["mask"] = self.rles[i]
            if (points := self.keypoints_of(i)) is not None:
                one["keypoints"] = [[round(x, 3), round(y, 3), round(score, 5)] for x, y, score in points.tolist()]
            detections.append(one)
        path = str(self.image) if isinstance(self.image, Path) else None
        found: dict[str, Any] = {"image": path, "height": self.size[0], "width": self.size[1], "detections": detections}
        if self.maps is not None:
            found |= {"semantic": self.maps.shares(), "segments": self.maps.segments_info()}
        return found

    def to_json(self, path: str | Path | None = None) -> str:
        """Return :meth:`to_dict` as JSON text, and write it to ``path`` if you give one; the folder is created."""
        text = json.dumps(self.to_dict())
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return the detections as COCO results.

        Each has ``image_id``, the original ``category_id``, ``score``, ``bbox`` (XYWH) and, with a mask head,
        ``segmentation`` (RLE), with a keypoint head ``keypoints``. Numbers are rounded as in :meth:`to_dict`. COCO
        counts pixels from 0, so that its keypoints are half a pixel less.

        Args:
            image_id: ID of the image in the annotation file.
        """
        results = []
        for i in range(len(self)):
            label = int(self.labels[i])
            category_id = self.categories.ids[label] if self.categories else label
            x0, y0, x1, y1 = self._corners(i)
            result: dict[str, Any] = {"image_id": image_id, "category_id": category_id, "score": self._score(i)}
            result["bbox"] = [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)]
            if self.rles is not None:
                result["segmentation"] = self.rles[i]
            if (points := self.keypoints_of(i)) is not None:
                places = (points - [PIXEL_CENTRE, PIXEL_CENTRE, 0]).tolist()
                result["keypoints"] = [round(v, 3 + 2 * (k == 2)) for point in places for k, v in enumerate(point)]
            results.append(result)
        return results

    def to_dataframe(self) -> Any:
        """Return a ``pandas.DataFrame`` with one row per detection: name, label, score, x0, y0, x1, y1, area.

        The area is in pixels: of the mask, or of the box if there is no mask head.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        pandas = _optional("pandas", "to_dataframe")
        x0, y0, x1, y1 = self.boxes.T
        columns = {"name": self.names, "label": self.labels, "score": self.scores}
        return pandas.DataFrame(columns | {"x0": x0, "y0": y0, "x1": x1, "y1": y1, "area": self._areas()})

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``.

        Raises:
            ModuleNotFoundError: supervision is not installed.
        """
        return _optional("supervision", "to_supervision").Detections(**self.supervision())

    def to_fiftyone(self) -> Any:
        """Return ``fiftyone.Detections``.

        Raises:
            ModuleNotFoundError: fiftyone is not installed.
        """
        fiftyone = _optional("fiftyone", "to_fiftyone")
        return fiftyone.Detections(detections=[fiftyone.Detection(**one) for one in self.fiftyone()])

    def supervision(self) -> dict[str, Any]:
        """Return the arguments of ``supervision.Detections``: ``sv.Detections(**found.supervision())``."""
        return {
            "xyxy": self.boxes,
            "confidence": self.scores,
            "class_id": self.labels,
            "mask": self.masks,
            "data": {"class_name": np.array(self.names, dtype=str)},
        }

    def fiftyone(self) -> list[dict[str, Any]]:
        """Return the arguments of each ``fiftyone.Detection``: ``fo.Detection(**one)``; boxes are from 0 to 1."""
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

    def _score(self, i: int) -> float:
        return round(float(self.scores[i]), 5)

    def _corners(self, i: int) -> list[float]:
        return [round(float(value), 3) for value in self.boxes[i]]

    def _areas(self) -> np.ndarray:
        """Return the areas in pixels, (n,): of the masks, or of the boxes if there is no mask head."""
        if self.rles is not None:
            return mask_areas(self.rles).astype(np.float64)
        sides = (self.boxes[:, 2:] - self.boxes[:, :2]).astype(np.float64)
        return sides[:, 0] * sides[:, 1]

    def _pixels(self, given: np.ndarray | None, method: str) -> np.ndarray:
        """Return the pixels of the image, after a check of its size."""
        image = self.image if given is None else given
        if image is None:
            raise ValueError(f"{method}: this prediction does not have its image; call {method}(image=pixels)")
        pixels = read_image(image, channels=self.channels) if isinstance(image, Path) else image
        if pixels.shape[:2] != tuple(self.size):
            where = image if isinstance(image, Path) else "the image"
            raise ValueError(
                f"{method}: {where} is {pixels.shape[0]} x {pixels.shape[1]} (height x width), but this prediction is "
                f"for {self.size[0]} x {self.size[1]}; give the image that you predicted on"
            )
        return pixels


def _optional(package: str, method: str) -> Any:
    """Import an optional package.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(f"{method} needs {package}: pip install {package}", name=package) from None

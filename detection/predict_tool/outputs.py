"""Predictions as pictures, COCO JSON, CSV and masks."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detection.coco.patches import rle_to_patch
from detection.coco.rle import mask_areas
from detection.foreign import cell
from detection.inference import Prediction
from detection.visualize import draw

COLUMNS = ("file", "frame", "class", "label", "score", "x0", "y0", "x1", "y1", "mask_pixels")
MOST_MASKS = 2**16 - 1
"""Objects that the numbers of a 16-bit picture tell apart."""


class Writer:
    """Collects predictions and writes them below a folder.

    Args:
        kinds: of ``pictures``, ``json``, ``csv`` and ``masks``.
        names: of the classes.
        ids: original category ids of the classes, for the JSON.
    """

    def __init__(self, folder: Path, kinds: Sequence[str], names: Sequence[str], ids: Sequence[int]) -> None:
        self._folder, self._kinds, self._names, self._ids = folder, set(kinds), names, ids
        self._images: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []
        self._rows: list[list[Any]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, image: np.ndarray, found: Prediction, frame: int | None = None) -> np.ndarray | None:
        """Take what was found in an image or a frame.

        Returns:
            The picture (kH, kW, 3) uint8 RGB, if pictures are wanted.
        """
        image_id = len(self._images) + 1
        file = name if frame is None else f"{name}#{frame}"
        self._images.append({"id": image_id, "file_name": file, "height": found.size[0], "width": found.size[1]})
        for i in range(len(found)):
            x0, y0, x1, y1 = (round(float(value), 3) for value in found.boxes[i])
            label, score = int(found.labels[i]), round(float(found.scores[i]), 5)
            result: dict[str, Any] = {"image_id": image_id, "category_id": self._ids[label], "score": score}
            result["bbox"] = [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)]
            pixels: Any = ""
            if found.rles is not None:
                result["segmentation"] = found.rles[i]
                pixels = int(mask_areas(found.rles[i : i + 1])[0])
            if "json" in self._kinds:
                self._results.append(result)
            if "csv" in self._kinds:
                place = [cell(name, None), "" if frame is None else frame]
                self._rows.append([*place, cell(found.name(i)), label, score, x0, y0, x1, y1, pixels])
        if "masks" in self._kinds and found.rles is not None:
            target = self.path(name, ".masks.png" if frame is None else f".masks/{frame:06d}.png")
            self._write_masks(target, found.size, found.rles)
        if "pictures" not in self._kinds:
            return None
        picture = draw(image, found.boxes, found.labels, found.scores, found.rles, self._names)
        if frame is None:
            _write(self.path(name, ".jpg"), picture)
        return picture

    def path(self, name: str, suffix: str) -> Path:
        """Where a result goes; its folder is made."""
        path = Path(f"{(self._folder / name).with_suffix('')}{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> list[Path]:
        """Write the JSON and the CSV; returns where they are."""
        written = []
        if "json" in self._kinds:
            categories = [{"id": id, "name": name} for id, name in zip(self._ids, self._names, strict=True)]
            for file, content in (("results.json", self._results), ("images.json", self._whole(categories))):
                (self._folder / file).write_text(json.dumps(content), encoding="utf-8")
                written.append(self._folder / file)
        if "csv" in self._kinds:
            with open(self._folder / "results.csv", "w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                writer.writerow(COLUMNS)
                writer.writerows(self._rows)
            written.append(self._folder / "results.csv")
        return written

    def _whole(self, categories: list[dict[str, Any]]) -> dict[str, Any]:
        """Which image id is which file: a COCO file without annotations."""
        return {"images": self._images, "categories": categories, "annotations": []}

    def _write_masks(self, path: Path, size: tuple[int, int], rles: Sequence[dict[str, Any]]) -> None:
        """One 16-bit PNG: 0 is background, k the k-th detection; better ones on top."""
        if len(rles) > MOST_MASKS:
            raise ValueError(
                f"{path}: a PNG of masks has numbers for {MOST_MASKS} objects, not for {len(rles)}; raise --score, or "
                "take --save json"
            )
        numbered = np.zeros(size, dtype=np.uint16)
        for i in reversed(range(len(rles))):
            patch = rle_to_patch(rles[i])
            numbered[patch.place][patch.pixels] = i + 1
        _write(path, numbered)


def _write(path: Path, picture: np.ndarray) -> None:
    if picture.ndim == 3:
        picture = picture[..., ::-1]
    # imencode and our own writing: OpenCV's imwrite returns False instead of an error, and fails on some names.
    good, data = cv2.imencode(path.suffix, picture)
    assert good
    path.write_bytes(data.tobytes())

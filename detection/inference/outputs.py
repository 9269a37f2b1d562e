"""Write predictions as images, COCO JSON, CSV and masks."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.checkpoint_files import replacing
from detection.coco.patches import rle_to_patch
from detection.coco.rle import mask_areas
from detection.foreign import cell
from detection.inference.maps import PredictedMaps
from detection.inference.prediction import Prediction
from detection.visualize import write_picture

COLUMNS = ("file", "frame", "class", "label", "score", "x0", "y0", "x1", "y1", "mask_pixels")
MOST_MASKS = 2**16 - 1
"""Largest number of objects in a 16-bit mask image, which has one number per object."""


class Writer:
    """Collect predictions, and write them below a folder.

    Args:
        folder: output folder; it is created.
        kinds: what to write: ``pictures``, ``json``, ``csv``, ``masks``, ``labels``, ``panoptic``.
        names: class names.
        ids: original category IDs of the classes, for the JSON.
    """

    def __init__(self, folder: Path, kinds: Sequence[str], names: Sequence[str], ids: Sequence[int]) -> None:
        self._folder, self._kinds, self._names, self._ids = folder, set(kinds), names, ids
        self._panoptic: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
        self._images: list[tuple[dict[str, Any], list[dict[str, Any]], list[list[Any]]]] = []  # image, results, rows
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, image: np.ndarray, found: Prediction, frame: int | None = None) -> np.ndarray | None:
        """Add the detections of an image or a video frame; write the annotated image and the masks.

        Returns:
            The annotated image (kH, kW, 3) uint8 RGB with an integer k; None if ``pictures`` is not in ``kinds``.
        """
        picture = None
        if "masks" in self._kinds and found.rles is not None:
            target = self.path(name, ".masks.png" if frame is None else f".masks/{frame:06d}.png")
            self._write_masks(target, found.size, found.rles)
        if found.maps is not None:
            self._write_maps(name, found.maps, frame)
            image = found.maps.drawn(image) if "pictures" in self._kinds else image
        if "pictures" in self._kinds:
            picture = found.plot(image=image)
            if frame is None:
                write_picture(self.path(name, ".jpg"), picture)
        self._collect(name, found, frame)
        return picture

    def _collect(self, name: str, found: Prediction, frame: int | None) -> None:
        """Store one image with its results for the JSON and its rows for the CSV."""
        image_id = len(self._images) + 1
        file = name if frame is None else f"{name}#{frame}"
        image = {"id": image_id, "file_name": file, "height": found.size[0], "width": found.size[1]}
        results = found.to_coco(image_id)
        rows: list[list[Any]] = []
        if "csv" in self._kinds:
            areas = None if found.rles is None else mask_areas(found.rles).tolist()
            for i, result in enumerate(results):
                corners = [round(float(value), 3) for value in found.boxes[i]]
                place = [cell(name, None), "" if frame is None else frame]
                what = [cell(found.name(i)), int(found.labels[i]), result["score"]]
                rows.append([*place, *what, *corners, "" if areas is None else int(areas[i])])
        if "json" not in self._kinds:
            results = []
        self._images.append((image, results, rows))  # in one step, so that a signal never leaves half an image

    def _write_maps(self, name: str, maps: PredictedMaps, frame: int | None) -> None:
        """Write the semantic map and the segments, if wanted."""
        if "labels" in self._kinds:
            path = self.path(name, ".labels.png" if frame is None else f".labels/{frame:06d}.png")
            write_picture(path, maps.label_png())
        if "panoptic" in self._kinds:
            path = self.path(name, ".panoptic.png" if frame is None else f".panoptic/{frame:06d}.png")
            write_picture(path, maps.panoptic_png())
            number, (height, width) = len(self._panoptic["images"]) + 1, maps.semantic.shape
            file = name if frame is None else f"{name}#{frame}"
            self._panoptic["images"].append({"id": number, "file_name": file, "height": height, "width": width})
            entry = {"image_id": number, "file_name": path.relative_to(self._folder).as_posix()}
            self._panoptic["annotations"].append(entry | {"segments_info": maps.segments_info()})
            self._panoptic["categories"] = maps.coco_categories()

    def path(self, name: str, suffix: str) -> Path:
        """Return the path of a result, and create its folder."""
        path = Path(f"{(self._folder / name).with_suffix('')}{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def __len__(self) -> int:
        """Return the number of images and frames so far."""
        return len(self._images)

    def close(self) -> list[Path]:
        """Write the JSON files and the CSV of all images so far, and return their paths."""
        written = []
        if "json" in self._kinds:
            results = [result for _, results, _ in self._images for result in results]
            categories = [{"id": id, "name": name} for id, name in zip(self._ids, self._names, strict=True)]
            images = {"images": [image for image, _, _ in self._images], "categories": categories, "annotations": []}
            written.append(self._write_whole("results.json", json.dumps(results)))
            written.append(self._write_whole("images.json", json.dumps(images)))
        if "panoptic" in self._kinds:
            written.append(self._write_whole("panoptic.json", json.dumps(self._panoptic)))
        if "csv" in self._kinds:
            text = io.StringIO(newline="")
            writer = csv.writer(text)
            writer.writerow(COLUMNS)
            for _, _, rows in self._images:
                writer.writerows(rows)
            written.append(self._write_whole("results.csv", text.getvalue()))
        return written

    def _write_whole(self, name: str, text: str) -> Path:
        """Write a file into the folder atomically."""
        with replacing(self._folder / name) as file:
            file.write(text.encode("utf-8"))
        return self._folder / name

    def _write_masks(self, path: Path, size: tuple[int, int], rles: Sequence[dict[str, Any]]) -> None:
        """Write one 16-bit PNG: 0 is background, k is detection number k; better detections are on top."""
        if len(rles) > MOST_MASKS:
            raise ValueError(
                f"{path}: a mask PNG can store {MOST_MASKS} objects, but there are {len(rles)}; raise --score, or use "
                "--save json"
            )
        numbered = np.zeros(size, dtype=np.uint16)
        for i in reversed(range(len(rles))):
            patch = rle_to_patch(rles[i])
            numbered[patch.place][patch.pixels] = i + 1
        write_picture(path, numbered)

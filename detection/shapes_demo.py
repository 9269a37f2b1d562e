"""Steps of ``rcnn demo``: write a synthetic data set, and draw predictions beside the ground truth."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools.coco import COCO

from detection.coco.keypoints import PIXEL_CENTRE
from detection.data.dataset import read_image
from detection.inference.api import load_model, predict
from detection.shapes import CATEGORIES, write_shapes
from detection.sheets import Tile, sheet
from detection.visualize import draw, side_by_side


def write_data(folder: Path) -> None:
    """Write the data set into a temporary folder, and move it when complete, so that no interruption leaves a part."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_shapes(partial, train=400, val=100, keypoints=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write_pictures(checkpoint: Path, data: Path, folder: Path, num: int = 12) -> None:
    """Draw the ground truth on the left and the prediction on the right: one file per image, and a sheet of all.

    Skip images without objects, and images with crowds, which a prediction cannot match.

    Args:
        checkpoint: file of the detector.
        data: folder of the data set.
        folder: output folder, whose old content is deleted; the sheet is beside it, with the ending ``.jpg``.
        num: maximum number of images.
    """
    model = load_model(checkpoint)
    assert model.categories is not None
    names = [CATEGORIES[number] for number in sorted(CATEGORIES)]
    with contextlib.redirect_stdout(None):  # pycocotools prints every step
        coco = COCO(str(data / "annotations" / "instances_val.json"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cells: list[list[Tile]] = []
    clear = [image for image in coco.imgs.values() if _is_clear(coco.imgToAnns[image["id"]])]
    for image in clear[:num]:
        path = data / "val" / image["file_name"]
        pixels = read_image(path)
        annotations = coco.imgToAnns[image["id"]]
        corners = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = np.array([sorted(CATEGORIES).index(a["category_id"]) for a in annotations], np.int64)
        masks = [coco.annToRLE(a) for a in annotations]
        found = predict(model, path)
        points = None if found.keypoints is None else _keypoints(annotations, found.keypoints.shape[1])
        skeletons = model.categories.skeletons
        shown = None if found.rles is None and points is not None else masks
        truth = draw(pixels, corners, labels, None, shown, names, keypoints=points, skeletons=skeletons)
        prediction = found.plot(image=pixels)
        cells.append([(f"{path.name}, ground truth", truth), ("prediction", prediction)])
        cv2.imwrite(str(folder / f"{path.stem}.jpg"), side_by_side(truth, prediction)[..., ::-1])
    if cells:
        picture = sheet(cells, columns=3)
        cv2.imwrite(str(folder.with_suffix(".jpg")), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def _keypoints(annotations: list[dict[str, Any]], most: int) -> np.ndarray:
    """Return the keypoints of annotations, (n, most, 3), at the centres of their pixels."""
    points = np.zeros((len(annotations), most, 3))
    for own, annotation in zip(points, annotations, strict=True):
        given = np.reshape(annotation.get("keypoints", ()), (-1, 3))
        own[: len(given)] = given
    return points + [PIXEL_CENTRE, PIXEL_CENTRE, 0]


def _is_clear(annotations: list[dict[str, Any]]) -> bool:
    return bool(annotations) and not any(a["iscrowd"] for a in annotations)

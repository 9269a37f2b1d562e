"""Parts of ``rcnn demo``: a drawn data set, and predictions beside the truth."""

import contextlib
import shutil
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO

from detection.data.dataset import read_image
from detection.inference.api import load_model, predict
from detection.shapes import write_shapes
from detection.visualize import draw, side_by_side


def write_data(folder: Path) -> None:
    """Draw the data set beside its place and move it there complete, so that a break leaves no half of it."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_shapes(partial, train=400, val=100)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write_pictures(checkpoint: Path, data: Path, folder: Path, num: int = 12) -> None:
    """Truth left, prediction right: one file per image, and a sheet of them all."""
    model = load_model(checkpoint)
    assert model.categories is not None
    with contextlib.redirect_stdout(None):  # it reports every step
        coco = COCO(str(data / "annotations" / "instances_val.json"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pairs = []
    for image in list(coco.imgs.values())[:num]:
        path = data / "val" / image["file_name"]
        pixels = read_image(path)
        annotations = coco.imgToAnns[image["id"]]
        corners = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = np.array([model.categories.label(a["category_id"]) for a in annotations], np.int64)
        masks = [coco.annToRLE(a) for a in annotations]
        found = predict(model, path)
        names = model.categories.names
        truth = draw(pixels, corners, labels, None, masks, names)
        prediction = draw(pixels, found.boxes, found.labels, found.scores, found.rles, names)
        pairs.append(side_by_side(truth, prediction))
        cv2.imwrite(str(folder / f"{path.stem}.jpg"), pairs[-1][..., ::-1])
    cv2.imwrite(str(folder.with_suffix(".jpg")), sheet(pairs)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def sheet(pairs: list[np.ndarray], columns: int = 3, width: int = 560, gap: int = 12) -> np.ndarray:
    """All pictures on one, each reduced to the same width; the flat ones first, so that rows hold like heights."""
    small = [
        cv2.resize(pair, (width, pair.shape[0] * width // pair.shape[1]), interpolation=cv2.INTER_AREA)
        for pair in pairs
    ]
    small.sort(key=len)
    rows = [small[i : i + columns] for i in range(0, len(small), columns)]
    heights = [max(pair.shape[0] for pair in row) + gap for row in rows]
    page = np.full((sum(heights) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for y, row in zip(np.cumsum([gap, *heights]), rows, strict=False):
        for i, pair in enumerate(row):
            x = gap + i * (width + gap)
            page[y : y + pair.shape[0], x : x + width] = pair
    return page

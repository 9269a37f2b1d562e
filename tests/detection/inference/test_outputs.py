import csv
import tracemalloc

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detection.categories import Categories
from detection.inference import Prediction
from detection.inference.outputs import Writer


def prediction(number: int, side: int) -> Prediction:
    """Squares of 50 pixels, which overlap here and there."""
    corners = np.random.default_rng(0).integers(0, side - 60, (number, 2))
    boxes = np.concatenate([corners, corners + 50], axis=1).astype(np.float32)
    rles = [coco_mask.frPyObjects([[x, y, X, y, X, Y, x, Y]], side, side)[0] for x, y, X, Y in boxes.tolist()]
    rles = [rle | {"counts": rle["counts"].decode()} for rle in rles]
    scores = np.linspace(0.9, 0.5, number).astype(np.float32)
    return Prediction(boxes, scores, np.zeros(number, int), (side, side), rles, Categories(("cell",), (1,)))


def write(folder, kinds, found):
    writer = Writer(folder, kinds, ("cell",), (1,))
    writer.add("slide", np.zeros((*found.size, 3), np.uint8), found)
    writer.close()


def test_masks_and_their_pixels_are_those_of_the_whole_frames(tmp_path):
    found = prediction(40, 300)
    write(tmp_path, ["masks", "csv"], found)
    numbered = np.zeros(found.size, np.uint16)
    for i in reversed(range(40)):
        numbered[found.mask(i)] = i + 1
    assert np.array_equal(cv2.imread(str(tmp_path / "slide.masks.png"), cv2.IMREAD_UNCHANGED), numbered)
    with open(tmp_path / "results.csv", encoding="utf-8") as file:
        pixels = [int(row["mask_pixels"]) for row in csv.DictReader(file)]
    assert pixels == [found.mask(i).sum() for i in range(40)]


@pytest.mark.parametrize("kind", ["pictures", "masks", "csv", "json"])
def test_memory_does_not_grow_with_objects_times_pixels(tmp_path, kind):
    peaks = []
    for number in (1, 200):
        found = prediction(number, 1500)
        tracemalloc.start()
        write(tmp_path, [kind], found)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1500 * 1500  # 200 frames would take 200 times as much


def test_windows_for_fiftyone_are_cut_from_the_masks():
    found = prediction(10, 200)
    for i, one in enumerate(found.fiftyone()):
        x0, y0, x1, y1 = found.boxes[i].astype(int)
        assert np.array_equal(one["mask"], found.mask(i)[y0:y1, x0:x1])
        assert one["mask"].base is None


def test_more_masks_than_numbers_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr("detection.inference.outputs.MOST_MASKS", 9)
    write(tmp_path, ["masks"], prediction(9, 200))
    with pytest.raises(
        ValueError, match=r"slide\.masks\.png: a mask PNG can store 9 objects, but there are 10; raise --score"
    ):
        write(tmp_path, ["masks"], prediction(10, 200))

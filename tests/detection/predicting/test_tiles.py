import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detection.predicting import tiles
from detection.predicting.find import Found
from detection.predicting.tiles import at_inner_border, find_in_tiles, merge_tiles, starts


@given(st.integers(1, 5000), st.integers(32, 1500), st.floats(0, 0.9))
def test_tiles_cover_the_image_and_overlap(length, side, overlap):
    begins = starts(length, side, overlap)
    assert begins[0] == 0
    assert begins[-1] + side >= length
    assert begins[-1] == max(0, length - side)
    for first, second in itertools.pairwise(begins):
        assert first < second
        assert first + side - second >= int(side * overlap) - 1


def as_found(boxes, scores, labels=None):
    boxes = torch.tensor(boxes, dtype=torch.float64)
    return Found(boxes, torch.tensor(scores), torch.tensor(labels or [0] * len(scores)), None)


def test_a_whole_object_wins_over_its_surer_part():
    found = merge_tiles(
        as_found([[0, 0, 50, 20], [0, 0, 100, 20], [0, 0, 50, 20]], [0.9, 0.6, 0.8], [0, 0, 1]),
        torch.tensor([True, False, True]),
    )
    assert found.boxes.tolist() == [[0, 0, 50, 20], [0, 0, 100, 20]]
    assert found.labels.tolist() == [1, 0]


def test_neighbours_stay():
    found = merge_tiles(as_found([[0, 0, 20, 20], [15, 0, 35, 20]], [0.9, 0.8]), torch.tensor([False, False]))
    assert len(found.scores) == 2


def test_only_inner_borders_cut():
    boxes = torch.tensor([[0, 10, 20, 30], [40, 0, 60, 20], [80, 40, 100, 60], [40, 80, 60, 100], [30, 30, 50, 50]])
    first = at_inner_border(boxes.double(), (0, 0), (100, 100), (150, 150))
    assert first.tolist() == [False, False, True, True, False]
    last = at_inner_border(boxes.double(), (50, 50), (100, 100), (150, 150))
    assert last.tolist() == [True, True, False, False, False]


def test_small_objects_of_a_large_image(monkeypatch):
    """A detector that sees bright squares of 8 pixels or more in what it is given, shrunk to 64 pixels."""
    image = np.zeros((256, 256, 3), np.uint8)
    places = [(20, 30), (60, 60), (126, 126), (200, 10), (240, 240)]  # some lie on borders of tiles
    for y, x in places:
        image[y : y + 12, x : x + 12] = 255
    image[90:110, 150:250] = 128  # longer than the overlap

    def look(model, images, size=None, flip=False):
        answers = []
        for one in images:
            step = max(1, max(one.shape[:2]) // 64)
            boxes, labels = [], []
            for label, value in enumerate((255, 128)):
                for y, x, h, w in components(one[..., 0] == value):
                    if min(h, w) >= 8 * step or label:
                        boxes.append([x, y, x + w, y + h])
                        labels.append(label)
            answers.append(as_found(boxes or torch.zeros(0, 4).tolist(), [0.9] * len(boxes), labels))
        return [a if len(a.scores) else Found(torch.zeros(0, 4).double(), *a[1:3], None) for a in answers]

    monkeypatch.setattr(tiles, "find", look)
    found = find_in_tiles(None, image, side=64, overlap=0.25)  # type: ignore[arg-type]
    squares = found.boxes[found.labels == 0]
    assert sorted(squares[:, :2].int().tolist()) == sorted([x, y] for y, x in places)
    assert (squares[:, 2:] - squares[:, :2] == 12).all()
    assert found.boxes[found.labels == 1].tolist() == [[150, 90, 250, 110]]


def components(mask):
    import cv2

    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return [(int(y), int(x), int(h), int(w)) for x, y, w, h, _ in stats[1:]]


def test_a_small_image_is_looked_at_once(tiny_model, pixels, monkeypatch):
    calls = []
    real = tiles.find
    monkeypatch.setattr(tiles, "find", lambda model, images, size: calls.append(len(images)) or real(model, images))
    find_in_tiles(tiny_model, pixels, side=96)
    assert calls == [1]
    with pytest.raises(ValueError, match="overlap"):
        find_in_tiles(tiny_model, pixels, side=64, overlap=1.0)

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detection import predict
from detection.inference import tiles
from detection.inference.tiles import at_inner_border, detect_in_tiles, merge_tiles, starts
from detection.models.box_head import BoxHeadConfig
from detection.structures import Detections
from tests.support.exported_models import HEADS

HEAD = SimpleNamespace(last_head=SimpleNamespace(config=BoxHeadConfig()))
"""All that the merging of tiles asks of a detector."""
COCO = Path(__file__).parents[4] / "shared/data/coco_mini"


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
    return Detections(boxes, torch.tensor(scores), torch.tensor(labels or [0] * len(scores)), None)


def test_a_whole_object_wins_over_its_surer_part():
    found = merge_tiles(
        as_found([[0, 0, 50, 20], [0, 0, 100, 20], [0, 0, 50, 20]], [0.9, 0.6, 0.8], [0, 0, 1]),
        torch.tensor([True, False, True]),
    )
    assert found.boxes.tolist() == [[0, 0, 100, 20], [0, 0, 50, 20]]
    assert found.labels.tolist() == [0, 1]


@pytest.mark.parametrize("part", [[0, 0, 50, 20], [0, 0, 90, 20]])  # in it, and a duplicate of it
def test_a_whole_object_takes_the_score_of_its_surer_part(part):
    found = merge_tiles(
        as_found([part, [0, 0, 100, 20], [200, 0, 220, 20]], [0.95, 0.06, 0.5]), torch.tensor([True, False, False])
    )
    assert found.boxes.tolist() == [[0, 0, 100, 20], [200, 0, 220, 20]]
    assert found.scores.tolist() == pytest.approx([0.95, 0.5])


def test_a_score_goes_to_one_object_and_a_lower_one_changes_nothing():
    boxes = [[0, 0, 100, 20], [0, 0, 104, 40], [0, 0, 50, 20], [60, 0, 90, 20]]
    found = merge_tiles(as_found(boxes, [0.6, 0.3, 0.9, 0.2]), torch.tensor([False, False, True, True]))
    assert found.boxes.tolist() == boxes[:2]
    assert found.scores.tolist() == pytest.approx([0.9, 0.3])


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
        return [a if len(a.scores) else Detections(torch.zeros(0, 4).double(), *a[1:3], None) for a in answers]

    monkeypatch.setattr(tiles, "detect", look)
    found = detect_in_tiles(HEAD, image, side=64, overlap=0.25)
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
    real = tiles.detect
    monkeypatch.setattr(tiles, "detect", lambda model, images, size: calls.append(len(images)) or real(model, images))
    detect_in_tiles(tiny_model, pixels, side=96)
    assert calls == [1]
    with pytest.raises(ValueError, match="overlap"):
        detect_in_tiles(tiny_model, pixels, side=64, overlap=1.0)


def find_perfectly(monkeypatch, boxes, labels, size, side, scores=None, **options):
    """Merge what a perfect detector says of each tile and of the whole: the visible part of every object.

    The mask of object i is filled with i / 1000.

    Args:
        boxes: (n, 4) XYXY.
        size: height, width of the image.
    """
    rows, columns = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    image = np.stack([columns, rows, rows], axis=2).astype(np.uint16)  # a tile's first pixel names its place
    every = torch.as_tensor(np.asarray(boxes), dtype=torch.float64).reshape(-1, 4)
    scores = torch.full((len(every),), 0.9) if scores is None else torch.as_tensor(scores)

    def look(model, images, size=None):
        for tile in images:
            left, top = tile[0, 0, :2].tolist()
            low, high = torch.tensor([left, top] * 2), torch.tensor([left + tile.shape[1], top + tile.shape[0]] * 2)
            seen = every.clamp(low, high) - low
            index = (seen[:, 2:] - seen[:, :2]).amin(dim=1).gt(0).nonzero().squeeze(1)
            masks = (index / 1000).float()[:, None, None].expand(-1, 2, 2)
            yield Detections(seen[index], scores[index], torch.as_tensor(labels)[index], masks)

    monkeypatch.setattr(tiles, "detect", lambda *arguments: list(look(*arguments)))
    return detect_in_tiles(HEAD, image, side, **options)


def assert_each_once(found, boxes, labels):
    """Every object is found, nothing else is, and each detection has the mask of its object."""
    truth = [(*box, label) for box, label in zip(np.asarray(boxes, float).tolist(), labels, strict=True)]
    assert sorted(truth) == sorted(zip(*found.boxes.T.tolist(), found.labels.tolist(), strict=True))
    for box, label, mask in zip(found.boxes.tolist(), found.labels.tolist(), found.masks, strict=True):
        assert truth[round(mask[0, 0].item() * 1000)] == (*box, label)


NESTED = [[100, 100, 900, 900], [300, 300, 360, 360], [600, 600, 650, 660]]


@pytest.mark.parametrize("scores", [[0.99, 0.95, 0.9], [0.8, 0.99, 0.9]])
def test_whole_objects_in_a_larger_one_stay(scores):
    found = merge_tiles(as_found(NESTED, scores), torch.zeros(3, dtype=torch.bool))
    assert sorted(found.boxes.tolist()) == NESTED


@pytest.mark.parametrize("scores", [[0.9, 0.8], [0.8, 0.9]])
def test_one_object_seen_whole_in_two_tiles_is_found_once(scores):
    found = merge_tiles(as_found([[0, 0, 20, 20], [1, 0, 21, 20]], scores), torch.zeros(2, dtype=torch.bool))
    assert found.scores.tolist() == pytest.approx([0.9])


def test_a_part_is_never_lost_to_a_small_object_in_it():
    """The larger object is whole nowhere: its part must not vanish, as the whole small one lies in it."""
    found = merge_tiles(as_found([[0, 0, 100, 100], [40, 40, 60, 60]], [0.6, 0.9]), torch.tensor([True, False]))
    assert sorted(found.boxes.tolist()) == [[0, 0, 100, 100], [40, 40, 60, 60]]


@pytest.mark.parametrize("cut", [[False, True], [True, True]])
def test_detections_of_one_view_drop_nothing_of_each_other(cut):
    boxes = [[0, 0, 100, 100], [0, 0, 80, 100]]
    assert len(merge_tiles(as_found(boxes, [0.9, 0.8]), torch.tensor(cut), torch.tensor([0, 0])).scores) == 2
    twins = merge_tiles(as_found(boxes[:1] * 2, [0.9, 0.8]), torch.tensor([False, False]), torch.tensor([0, 0]))
    assert len(twins.scores) == 2


def test_a_part_that_was_seen_too_large_is_dropped_as_a_duplicate():
    """IoU and share of the part are both 0.55: more than the threshold, less than INSIDE."""
    found = merge_tiles(as_found([[0, 0, 55, 100], [0, 0, 100, 100]], [0.6, 0.9]), torch.tensor([False, True]))
    assert found.boxes.tolist() == [[0, 0, 55, 100]]


def test_two_that_hardly_overlap_are_both_duplicates_of_one():
    """IoU 0.7 and 0.6 with the first, 0.3 with each other: usual suppression."""
    boxes = [[0, 0, 100, 10], [0, 0, 70, 10], [40, 0, 100, 10]]
    found = merge_tiles(as_found(boxes, [0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.bool), torch.tensor([0, 1, 1]))
    assert found.boxes.tolist() == boxes[:1]


def test_of_parts_the_largest_stays():
    boxes = [[0, 0, 30, 40], [0, 0, 100, 40], [10, 0, 60, 40]]
    found = merge_tiles(as_found(boxes, [0.9, 0.5, 0.8]), torch.ones(3, dtype=torch.bool))
    assert found.boxes.tolist() == [[0, 0, 100, 40]]


@pytest.mark.parametrize("views", [[0, 0, 1, 1], [0, 1, 0, 1]])
def test_two_objects_that_one_view_tells_apart_are_two(views):
    """IoU 90 / 110 between neighbours; the two views see both, and the scores may come in any order."""
    boxes = [[0, 0, 100, 10], [10, 0, 110, 10], [0, 0, 100, 10], [10, 0, 110, 10]]
    if views == [0, 1, 0, 1]:
        boxes = [boxes[k] for k in (0, 0, 1, 1)]
    for scores in itertools.permutations([0.9, 0.8, 0.7, 0.6]):
        found = merge_tiles(as_found(boxes, scores), torch.zeros(4, dtype=torch.bool), torch.tensor(views))
        assert sorted(found.boxes.tolist()) == [[0, 0, 100, 10], [10, 0, 110, 10]]


def test_duplicates_across_classes_are_one_where_asked():
    found = as_found([[0, 0, 20, 20], [1, 0, 21, 20]], [0.8, 0.9], [0, 1])
    whole = torch.zeros(2, dtype=torch.bool)
    assert len(merge_tiles(found, whole).scores) == 2
    assert merge_tiles(found, whole, across_classes=True).labels.tolist() == [1]
    surer_part = merge_tiles(found, torch.tensor([False, True]), across_classes=True)
    assert (surer_part.boxes.tolist(), surer_part.labels.tolist()) == ([[0, 0, 20, 20]], [1])
    assert surer_part.scores.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize(
    ("config", "number"),
    [(BoxHeadConfig(), 1), (BoxHeadConfig(nms_threshold=0.95), 2)],
)
def test_duplicates_are_those_of_the_models_own_threshold(monkeypatch, config, number):
    """Two views whose IoU is 0.9."""
    seen = iter([[[0.0, 0, 20, 20]], [[0.0, 0, 18, 20]]])

    def look(model, images, size=None):
        return [
            as_found(boxes, [0.9]) if (boxes := next(seen, None)) else as_found([[5, 5, 6, 6]], [0.1]) for _ in images
        ]

    monkeypatch.setattr(tiles, "detect", look)
    model = SimpleNamespace(last_head=SimpleNamespace(config=config))
    found = detect_in_tiles(model, np.zeros((64, 40, 3), np.uint8), side=40)
    assert (found.scores > 0.5).sum() == number


MADE = {
    "nested": NESTED,
    "nested, and cut by borders": [[0, 0, 1000, 1000], [190, 190, 215, 215], [380, 500, 420, 540], [195, 0, 205, 9]],
    "overlapping": [[100, 100, 160, 160], [110, 110, 170, 170], [105, 95, 168, 155], [100, 100, 160, 150]],
    "larger than a tile": [[10, 20, 990, 980], [30, 10, 700, 900], [500, 0, 520, 1000]],
    "at the edges": [[0, 0, 30, 30], [970, 970, 1000, 1000], [0, 970, 30, 1000], [0, 400, 1000, 430]],
    "ending at borders of tiles": [[200, 200, 256, 256], [204, 204, 230, 230], [256, 256, 300, 300], [0, 0, 256, 256]],
}


@pytest.mark.parametrize("masks", list(MADE.values()), ids=list(MADE))
@pytest.mark.parametrize("side", [100, 256, 600])
def test_perfect_detections_are_all_kept_once(monkeypatch, masks, side):
    for seed in range(3):
        scores = np.random.default_rng(seed).uniform(0.5, 1, len(masks)).astype(np.float32)
        found = find_perfectly(monkeypatch, masks, [0] * len(masks), (1000, 1000), side, scores)
        assert_each_once(found, masks, [0] * len(masks))


def test_many_objects_of_all_sizes_are_all_kept_once(monkeypatch):
    generator = np.random.default_rng(0)
    for seed in range(5):
        corner, size = generator.integers(0, 700, (80, 2)), np.exp(generator.uniform(1, 6.5, (80, 2))).astype(int)
        boxes = np.concatenate([corner, np.minimum(corner + size, 800)], axis=1)
        boxes = np.unique(boxes, axis=0)
        labels = generator.integers(0, 2, len(boxes)).tolist()
        scores = generator.uniform(0.5, 1, len(boxes)).astype(np.float32)
        found = find_perfectly(monkeypatch, boxes, labels, (800, 800), (100, 200, 333, 500, 700)[seed], scores)
        assert_each_once(found, boxes, labels)


@pytest.mark.skipif(not COCO.is_dir(), reason="the data set coco_mini is not there")
@pytest.mark.parametrize("side", [pytest.param(160, marks=pytest.mark.slow), 320])
def test_no_object_of_coco_is_lost(monkeypatch, side):
    content = json.loads((COCO / "annotations/instances_val2017.json").read_text())
    owned: dict[int, list] = {image["id"]: [] for image in content["images"]}
    for one in content["annotations"]:
        if not one["iscrowd"]:
            owned[one["image_id"]].append(one)
    assert sum(map(len, owned.values())) > 500
    for image in content["images"]:
        boxes = np.array([one["bbox"] for one in owned[image["id"]]]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [one["category_id"] for one in owned[image["id"]]]
        found = find_perfectly(monkeypatch, boxes, labels, (image["height"], image["width"]), side)
        assert_each_once(found, boxes, labels)


def test_each_pixel_of_a_map_comes_from_the_tile_whose_inner_border_is_the_farthest(monkeypatch):
    model = HEADS["semantic_fpn"]().eval()
    image = np.zeros((100, 150, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(100)[:, None], np.arange(150)

    def look(model, images, size=None, flip=False):
        """The map of a tile has the number of pixels to its nearest inner border."""
        answers = []
        for one in images:
            (top, left), (h, w) = one[0, 0, :2].astype(int), one.shape[:2]
            rows, columns = np.arange(h), np.arange(w)
            down = np.minimum(rows if top else 255, h - 1 - rows if top + h < 100 else 255)
            along = np.minimum(columns if left else 255, w - 1 - columns if left + w < 150 else 255)
            empty = Detections(torch.zeros(0, 4).double(), torch.zeros(0), torch.zeros(0).long())
            answers.append(empty._replace(semantic=torch.from_numpy(np.minimum.outer(down, along).astype(np.uint8))))
        return answers

    monkeypatch.setattr(tiles, "detect", look)
    found = detect_in_tiles(model, image, side=64, overlap=0.25)
    assert found.semantic.shape == (100, 150)
    assert found.semantic.min() >= 7  # half of the overlap of 16 pixels, but for rounding
    assert len(found.scores) == 0


@pytest.mark.parametrize("name", ["semantic_fpn", "panoptic_fpn"])
def test_a_semantic_head_works_with_tiles(name):
    model = HEADS[name]().eval()
    model.test_size = (64, 64)
    image = np.random.default_rng(0).integers(0, 255, (100, 150, 3), np.uint8)
    found = predict(model, image, 0.0, tile=64)
    assert found.maps.semantic.shape == (100, 150)
    assert (found.maps.ids is None) == (name == "semantic_fpn")
    tile = predict(model, image[:64, :64], 0.0)
    np.testing.assert_array_equal(found.maps.semantic[:40, :40], tile.maps.semantic[:40, :40])
    with pytest.raises(ValueError, match="test-time augmentation does not work with a semantic head"):
        predict(model, image, flip=True)

"""PQ and mIoU beside slow loops over pixels and segments, and merged over ranks."""

import math

import numpy as np
import pytest
import torch

from detection.categories import Categories
from detection.evaluation import confusion
from detection.evaluation.maps import MapEvaluator, Merging, segments_of
from detection.evaluation.panoptic import compare, per_class, quality
from detection.ops.panoptic import Segment
from detection.structures import IGNORE, UNLABELLED, Batch, Detections

THINGS, STUFF = 3, 2
CLASSES = THINGS + STUFF


def random_segments(generator: np.random.Generator, truth: bool) -> tuple[np.ndarray, list[Segment]]:
    ids = np.zeros((12, 14), np.int32)
    segments = []
    for _ in range(int(generator.integers(7))):
        number = int(generator.integers(1, 2**24))
        top, left = generator.integers(0, 10, 2)
        ids[top : top + int(generator.integers(1, 9)), left : left + int(generator.integers(1, 9))] = number
        thing = bool(generator.random() < 0.7)
        label = int(generator.integers(THINGS)) if thing else 1 + int(generator.integers(STUFF))
        segments.append(Segment(number, label, thing, is_crowd=truth and thing and bool(generator.random() < 0.3)))
    return ids, [one for one in segments if (ids == one.id).any()]


def slow(truth, segments, found, predicted) -> list[list[float]]:
    """The definition: sets of pixels, and every pair of segments. Columns: sum of IoU, TP, FP, FN."""

    def pixels(ids: np.ndarray, number: int) -> set[int]:
        return set(np.flatnonzero(ids.ravel() == number).tolist())

    def kind(one: Segment) -> int:
        return one.label if one.is_thing else THINGS + one.label - 1

    counts = [[0.0, 0, 0, 0] for _ in range(CLASSES)]
    void = pixels(truth, 0)
    hit, used = set(), set()
    for one in segments:
        for other in predicted:
            if one.is_crowd or kind(one) != kind(other):
                continue
            a, b = pixels(truth, one.id), pixels(found, other.id)
            iou = len(a & b) / len((a | b) - (b & void))
            if iou > 0.5:
                counts[kind(one)][0] += iou
                counts[kind(one)][1] += 1
                hit.add(one.id)
                used.add(other.id)
    for one in segments:
        counts[kind(one)][3] += one.id not in hit and not one.is_crowd
    for other in predicted:
        b = pixels(found, other.id)
        crowds = [one for one in segments if one.is_crowd and kind(one) == kind(other)]
        ignored = len(b & void) + (len(b & pixels(truth, crowds[-1].id)) if crowds else 0)
        counts[kind(other)][2] += other.id not in used and ignored / len(b) <= 0.5
    return counts


@pytest.mark.parametrize("seed", range(40))
def test_segments_match_as_the_definition_says(seed):
    generator = np.random.default_rng(seed)
    truth = random_segments(generator, True)
    found = random_segments(generator, False)
    if seed % 2:  # nearly the truth, so that many match
        ids = truth[0].copy()
        ids[generator.random(ids.shape) < 0.15] = 0
        found = ids, [one._replace(is_crowd=False) for one in truth[1] if (ids == one.id).any()]
    counts = compare(*truth, *found, THINGS, CLASSES)
    assert counts.tolist() == pytest.approx(np.array(slow(*truth, *found)))


def test_quality_is_the_mean_over_classes_that_occur():
    counts = np.array([[1.6, 2, 1, 1], [0, 0, 0, 0], [0, 0, 2, 1], [0.9, 1, 0, 0], [0, 0, 0, 0]], float)
    found = quality(counts, THINGS)
    # PQ of class 0: 1.6 / (2 + 0.5 + 0.5); of class 2: 0; of class 3: 0.9.
    assert found["PQ"] == pytest.approx((1.6 / 3 + 0 + 0.9) / 3)
    assert found["SQ"] == pytest.approx((0.8 + 0 + 0.9) / 3)
    assert found["RQ"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert found["PQ_things"] == pytest.approx((1.6 / 3 + 0) / 2)
    assert found["PQ_stuff"] == pytest.approx(0.9)
    assert np.isnan(per_class(counts)[[1, 4]]).all()
    assert math.isnan(quality(np.zeros((3, 4)), 2)["PQ_stuff"])


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_maps_are_loops_over_pixels(seed):
    generator = np.random.default_rng(seed)
    classes = 5
    truth = generator.integers(0, 4, (9, 11)).astype(np.uint8)  # class 4 has no truth
    truth[generator.random(truth.shape) < 0.2] = UNLABELLED
    found = generator.integers(0, classes, truth.shape).astype(np.uint8)
    pairs = [(t, f) for t, f in zip(truth.ravel().tolist(), found.ravel().tolist(), strict=True) if t != UNLABELLED]
    ious, accuracies, sizes = [], [], []
    for k in range(classes):
        true, hit = sum(t == k for t, _ in pairs), sum(t == f == k for t, f in pairs)
        if true:
            ious.append(hit / (true + sum(f == k for _, f in pairs) - hit))
            accuracies.append(hit / true)
            sizes.append(true)
    scores = confusion.scores(confusion.confusion(truth, found, classes))
    assert scores == pytest.approx({
        "mIoU": sum(ious) / len(ious),
        "fwIoU": sum(i * s for i, s in zip(ious, sizes, strict=True)) / len(pairs),
        "mean_accuracy": sum(accuracies) / len(accuracies),
        "pixel_accuracy": sum(t == f for t, f in pairs) / len(pairs),
    })  # fmt: skip


def test_an_image_without_labels_scores_nothing():
    blank = np.full((4, 4), UNLABELLED, np.uint8)
    matrix = confusion.confusion(blank, np.zeros((4, 4), np.uint8), 3)
    assert not matrix.any()
    assert all(math.isnan(value) for value in confusion.scores(matrix).values())


class Truth:
    """Two stuff classes, left and right, and an object in the middle; image 7 has no label at all."""

    categories = Categories(("things", "left", "right"), (0, 11, 12))

    def semantic(self, image_id):
        found = np.repeat([[1] * 20 + [2] * 20], 30, axis=0).astype(np.uint8)
        found[10:20, 15:25] = 0
        return np.full_like(found, UNLABELLED) if image_id == 7 else found

    def panoptic(self, image_id):
        semantic = self.semantic(image_id)
        ids = np.where(semantic == UNLABELLED, 0, semantic + 1).astype(np.int32)
        return ids, [] if image_id == 7 else [Segment(1, 1, True), Segment(2, 1, False), Segment(3, 2, False)]


def prediction(ids: list[int], shift: int = 0) -> tuple[Batch, Detections]:
    """The truth of images at half of their size, shifted by some cells, as logits and objects."""
    count = len(ids)
    sizes = torch.tensor([[60, 80]] * count)
    batch = Batch(torch.zeros(count, 3, 64, 96), sizes, sizes // 2, torch.tensor(ids))
    cells = torch.zeros(count, 3, 16, 24)
    cells[:, 1, :, : 10 + shift], cells[:, 2, :, 10 + shift :] = 5, 5
    cells[:, 0, 5:10, 8:12] = 9
    boxes = torch.tensor([[30.0, 20, 50, 40]]).repeat(count, 1, 1)
    masks = torch.ones(count, 1, 28, 28)
    return batch, Detections(boxes, torch.full((count, 1), 0.9), torch.ones(count, 1).long(), masks, semantic=cells)


def evaluator() -> MapEvaluator:
    return MapEvaluator(Truth(), Categories(("cat", "dog"), (1, 2)), Merging(0.5, 20, 0.5))


def test_predictions_are_scored_at_the_size_of_the_file():
    one = evaluator()
    one.add(*prediction([1]))
    found = one.evaluate()
    assert found["panoptic/RQ"] == 1
    assert found["panoptic/PQ_things"] == 1  # the box is exactly the object
    assert 0.9 < found["panoptic/PQ_stuff"] <= 1
    assert 0.85 < found["semantic/mIoU"] < 1
    assert one.tables()["panoptic"].splitlines()[2].startswith("2,dog,1.0,1.0,1.0,1,0,0")


def test_ranks_give_what_one_process_gives_and_an_image_counts_once():
    whole, parts = evaluator(), [evaluator(), evaluator()]
    batches = [([1, 2], 0), ([3, 7], 1), ([4, IGNORE], 3), ([2, 5], 2)]
    for k, (ids, shift) in enumerate(batches):
        whole.add(*prediction(ids, shift))
        parts[k % 2].add(*prediction([i for i in ids if i != 2 or k == 0] or [IGNORE], shift))
    merged = evaluator()
    merged.merge(part.state() for part in reversed(parts))
    assert merged.evaluate() == whole.evaluate()
    assert whole.matrix.sum() == 5 * 30 * 40  # image 7 has no labels
    assert whole.evaluate()["semantic/mIoU"] < evaluated(1)["semantic/mIoU"]


def evaluated(image_id: int) -> dict[str, float]:
    one = evaluator()
    one.add(*prediction([image_id]))
    return one.evaluate()


def test_without_objects_every_thing_is_missed():
    one = evaluator()
    batch, found = prediction([1])
    one.add(batch, found._replace(labels=found.labels.fill_(IGNORE)))
    assert one.evaluate()["panoptic/PQ_things"] == 0


@pytest.mark.parametrize(("score", "side", "things"), [(0.5, 50.0, 1), (0.499, 50.0, 0), (0.9, math.nan, 0)])
def test_objects_of_low_score_or_without_a_finite_box_are_no_segments(score, side, things):
    found = prediction([1])[1].image(0)
    boxes = torch.tensor([[15.0, 10, side / 2, 20]], dtype=torch.float64)
    found = found._replace(boxes=boxes, scores=torch.tensor([score]))
    _, segments = segments_of(found, Truth().semantic(1), Merging(0.5, 20, 0.5))
    assert sum(one.is_thing for one in segments) == things


def test_without_merging_there_are_only_scores_of_pixels():
    one = MapEvaluator(Truth())
    one.add(*prediction([1]))
    assert (one.num_things, one.num_classes) == (0, 2)
    assert {name.partition("/")[0] for name in one.evaluate()} == {"semantic"}
    assert list(one.tables()) == ["semantic"]
    assert not one.segments
    head, *rows = (line.split(",") for line in one.tables()["semantic"].splitlines())
    assert head == ["id", "name", "IoU", "accuracy", "pixels"]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("0", "things", "100"), ("11", "left", "550"), ("12", "right", "550")
    ]  # fmt: skip
    one.reset()
    assert not one.pixels


def test_of_an_image_on_two_ranks_the_first_counts():
    first, second = evaluator(), evaluator()
    first.add(*prediction([1]))
    second.add(*prediction([1, 3], shift=3))
    expected = first.pixels[1], first.segments[1]
    first.merge([second.state()])
    assert first.pixels[1] is expected[0]
    assert first.segments[1] is expected[1]
    assert set(first.pixels) == set(first.segments) == {1, 3}
    first.add(*prediction([1], shift=3))
    assert first.pixels[1] is expected[0]

"""The object of each point, compared with a loop over points and objects."""

import math

import pytest
import torch

from detection.ops.centres import Points, assign, boxes_around, centreness, sides
from detection.structures import IGNORE


def points_of(canvas: int = 128, strides: tuple[int, ...] = (8, 16, 32)) -> Points:
    centres, widths, low, high = [], [], [], []
    for level, stride in enumerate(strides):
        for y in range(canvas // stride):
            for x in range(canvas // stride):
                centres.append([(x + 0.5) * stride, (y + 0.5) * stride])
                widths.append(stride)
                low.append(0 if level == 0 else 8 * strides[level - 1])
                high.append(8 * stride if level < len(strides) - 1 else math.inf)
    return Points(*(torch.tensor(values, dtype=torch.float32) for values in (centres, widths, low, high)))


def by_loop(boxes: list[list[float]], crowd: list[bool], points: Points, radius: float) -> list[tuple[int, int]]:
    """The object of each point and its label; -1 where there is none."""
    found = []
    for (x, y), stride, low, high in zip(*(part.tolist() for part in points), strict=True):
        own, smallest, ignored = -1, math.inf, False
        for number, (x1, y1, x2, y2) in enumerate(boxes):
            distances = (x - x1, y - y1, x2 - x, y2 - y)
            if min(distances) <= 0:
                continue
            if crowd[number]:
                ignored = True
                continue
            away = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
            area = (x2 - x1) * (y2 - y1)
            if away < radius * stride and low < max(distances) <= high and area < smallest:
                own, smallest = number, area
        found.append((own, 1 if own >= 0 else IGNORE if ignored else 0))
    return found


@pytest.mark.parametrize("radius", [1.5, 0.6, 20.0])
@pytest.mark.parametrize("chunk", [1, 2**20])
def test_assignment_is_that_of_a_loop(radius, chunk):
    generator = torch.Generator().manual_seed(3)
    corner, extent = torch.rand(2, 12, 2, generator=generator) * 80, torch.rand(2, 12, 2, generator=generator) * 90
    boxes = torch.cat([corner, corner + extent + 2], dim=-1).round(decimals=2)
    crowd = torch.rand(2, 12, generator=generator) < 0.2
    boxes[1, 9:], crowd[1, 9:] = 0, False  # padding
    points = points_of()
    index, label = assign(boxes, crowd, points, radius, chunk)
    for image in range(2):
        expected = by_loop(boxes[image].tolist(), crowd[image].tolist(), points, radius)
        assert label[image].tolist() == [one for _, one in expected]
        positive = label[image] == 1
        assert index[image][positive].tolist() == [own for own, _ in expected if own >= 0]
        assert positive.any()


def test_each_distance_belongs_to_one_level():
    # The farthest side from its centre is 64 pixels, the limit between the first two levels.
    boxes = torch.tensor([[[4.0, 4.0, 124.0, 132.0]]])
    points = points_of()
    middle = Points(torch.tensor([[64.0, 68.0]] * 3), points.strides[:3], torch.tensor([0.0, 64, 128]), points.high[:3])
    middle = middle._replace(strides=torch.tensor([8.0, 16, 32]), high=torch.tensor([64.0, 128, math.inf]))
    assert assign(boxes, torch.zeros(1, 1, dtype=torch.bool), middle, 1.5)[1].tolist() == [[1, 0, 0]]


def test_nothing_but_padding_gives_negatives():
    points = points_of()
    _, label = assign(torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool), points, 1.5)
    assert not label.any()


def test_boxes_come_back_from_their_sides():
    centres, boxes = torch.tensor([[10.0, 20], [5, 5]]), torch.tensor([[1.0, 2, 30, 40], [7, 8, 9, 9]])
    torch.testing.assert_close(boxes_around(centres, sides(centres, boxes)), boxes)


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ((3, 3, 3, 3), 1.0),
        ((1, 2, 4, 2), 0.5),
        ((1, 1, 4, 4), 0.25),
        ((0, 2, 4, 2), 0.0),
        ((-1, 2, 4, 2), 0.0),
        ((0,) * 4, 0),
    ],
)
def test_centreness_by_hand(distances, expected):
    found = centreness(torch.tensor(distances, dtype=torch.float32))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_a_point_on_a_side_is_outside():
    one, many = torch.ones(5), torch.full((5,), math.inf)
    points = Points(torch.tensor([[4.0, 12], [5, 12], [12, 4], [20, 12], [12, 20]]), 8 * one, 0 * one, many)
    boxes = torch.tensor([[[4.0, 4.0, 20.0, 20.0]]])
    for crowd, label in ((False, 1), (True, IGNORE)):
        found = assign(boxes, torch.tensor([[crowd]]), points, 20.0)[1]
        assert found.tolist() == [[0, label, 0, 0, 0]]


def test_of_equally_small_objects_the_first_counts():
    points = Points(torch.tensor([[12.0, 12]]), torch.ones(1), torch.zeros(1), torch.full((1,), math.inf))
    boxes = torch.tensor([[[0.0, 0, 24, 30], [4, 4, 20, 20], [4, 4, 20, 20], [5, 4, 21, 20]]])
    for chunk in (1, 2, 3, 2**20):
        index, label = assign(boxes, torch.zeros(1, 4, dtype=torch.bool), points, 20.0, chunk)
        assert (index.tolist(), label.tolist()) == ([[1]], [[1]])

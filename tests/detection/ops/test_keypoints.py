"""Targets and decoding of heatmaps, beside loops over single keypoints and torchvision."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypoints_to_heatmap

from detection.ops.keypoints import decode_keypoints, keypoint_cells
from detection.structures import IGNORE


def problem(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Keypoints (2, 6, 4, 3) and RoIs (2, 6, 4): inside, outside and on the borders of their RoIs."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(2, 6, 2, generator=generator) * 50
    sides = 4 + torch.rand(2, 6, 2, generator=generator) * 60
    rois = torch.cat([low, low + sides], dim=-1)
    places = low[:, :, None] + sides[:, :, None] * (torch.rand(2, 6, 4, 2, generator=generator) * 1.4 - 0.2)
    places[0, 0, 0], places[0, 0, 1] = rois[0, 0, :2], rois[0, 0, 2:]
    seen = torch.randint(0, 3, (2, 6, 4, 1), generator=generator)
    seen[0, 0] = 2
    return torch.cat([places, seen], dim=-1), rois


@pytest.mark.parametrize("seed", range(4))
def test_cells_are_those_of_a_loop(seed):
    keypoints, rois = problem(seed)
    found = keypoint_cells(keypoints, rois, 8)
    assert found.shape == (2, 6, 4)
    for b in range(2):
        for s in range(6):
            x0, y0, x1, y1 = rois[b, s].tolist()
            for n in range(4):
                x, y, seen = keypoints[b, s, n].tolist()
                if seen == 0 or not (x0 <= x <= x1 and y0 <= y <= y1):
                    assert found[b, s, n] == IGNORE
                    continue
                column, row = min(7, int((x - x0) * 8 / (x1 - x0))), min(7, int((y - y0) * 8 / (y1 - y0)))
                assert found[b, s, n] == row * 8 + column


def test_cells_are_those_of_torchvision():
    keypoints, rois = problem()
    theirs, valid = keypoints_to_heatmap(keypoints[0], rois[0], 56)
    ours = keypoint_cells(keypoints[:1], rois[:1], 56)[0]
    assert torch.equal(ours != IGNORE, valid.bool())
    assert torch.equal(ours[ours != IGNORE], theirs[ours != IGNORE])


def test_a_roi_without_area_and_a_padded_object_have_no_cells():
    points = torch.tensor([[[[3.0, 4, 2]], [[0, 0, 0]], [[float("nan"), 1, 2]]]])
    rois = torch.tensor([[[3.0, 1, 3, 1], [0, 0, 0, 0], [0, 0, 9, 9]]])
    assert keypoint_cells(points, rois, 8).tolist() == [[[IGNORE], [IGNORE], [IGNORE]]]


def test_decoded_places_are_those_of_a_loop_over_pixels():
    torch.manual_seed(0)
    heatmaps = torch.randn(5, 3, 8, 8)
    boxes = torch.tensor([[10.0, 20, 17.5, 41.2], [0, 0, 1, 1], [5, 5, 5.2, 60], [3.3, 4.4, 30, 9.9], [0, 0, 0, 0]])
    found = decode_keypoints(heatmaps, boxes)
    for r, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        width, height = max(x1 - x0, 1), max(y1 - y0, 1)
        columns, rows = math.ceil(width), math.ceil(height)
        if r == 2:  # of float32
            width, columns = 1.0, 1
        for n in range(3):
            best, place = -math.inf, (0, 0)
            for j in range(rows):
                for i in range(columns):
                    value = bicubic(heatmaps[r, n], (j + 0.5) * 8 / rows - 0.5, (i + 0.5) * 8 / columns - 0.5)
                    if value > best + 1e-6:
                        best, place = value, (j, i)
            score = 1 / sum(math.exp(value - best) for value in heatmaps[r, n].flatten().tolist())
            expected = [x0 + (place[1] + 0.5) * width / columns, y0 + (place[0] + 0.5) * height / rows, score]
            assert found[r, n].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def bicubic(image: torch.Tensor, y: float, x: float, a: float = -0.75) -> float:
    """Keys' interpolation at a point, with the border repeated."""

    def weight(distance: float) -> float:
        d = abs(distance)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0

    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for j in range(top - 1, top + 3):
        for i in range(left - 1, left + 3):
            value = image[min(max(j, 0), len(image) - 1), min(max(i, 0), len(image) - 1)]
            total += float(value) * weight(y - j) * weight(x - i)
    return total


def test_decoded_places_are_those_of_torchvision():
    torch.manual_seed(0)
    heatmaps = F.interpolate(torch.randn(20, 17, 7, 7), scale_factor=8, mode="bilinear")
    low = torch.rand(20, 2) * 100
    boxes = torch.cat([low, low + torch.rand(20, 2) * 120], dim=1)
    theirs, logits = heatmaps_to_keypoints(heatmaps, boxes)
    ours = decode_keypoints(heatmaps, boxes)
    torch.testing.assert_close(ours[..., :2], theirs[..., :2], rtol=0, atol=1e-4)
    score = logits.exp() / heatmaps.flatten(2).exp().sum(dim=2)
    torch.testing.assert_close(ours[..., 2], score, rtol=1e-4, atol=1e-7)


def test_pytorch_accepts_the_operator():
    torch.library.opcheck(decode_keypoints, (torch.randn(3, 2, 8, 8), torch.rand(3, 4) * 20))


def test_no_rois_give_no_keypoints():
    assert decode_keypoints(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4)).shape == (0, 17, 3)

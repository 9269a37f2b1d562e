"""Pasted masks against pycocotools, torchvision and grid_sample; in C and in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detection.coco.rle import run_lengths
from detection.fast import pasting
from detection.fast.pasting import encode_masks, native, paste_masks, rounded_frames, runs

needs_compiler = pytest.mark.skipif(not native.usable(), reason="there is no C compiler")


@pytest.fixture(
    params=[pytest.param(True, marks=needs_compiler, id="C"), pytest.param(False, id="NumPy")], autouse=True
)
def way(request, monkeypatch):
    monkeypatch.setattr(native, "usable", lambda: request.param)


def random_boxes(number: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    centre = torch.rand(number, 2, generator=generator) * torch.tensor([width, height])
    extent = (torch.rand(number, 2, generator=generator) * 4 + 1.5).exp()
    return torch.cat([centre - extent / 2, centre + extent / 2], dim=1)


def smooth_masks(number: int, size: int, generator: torch.Generator) -> Tensor:
    coarse = torch.randn(number, 1, 5, 5, generator=generator)
    return F.interpolate(coarse, size=(size, size), mode="bicubic")[:, 0].mul(4).sigmoid()


def paste_by_grid_sample(mask: Tensor, box: Tensor, height: int, width: int) -> Tensor:
    """detectron2's paste, over the whole frame and in float64."""
    x0, y0, x1, y1 = box.double()
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - y0) / (y1 - y0) * 2 - 1
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - x0) / (x1 - x0) * 2 - 1
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    return F.grid_sample(mask.double()[None, None], grid[None], align_corners=False)[0, 0]


def coco_encode(frame: Tensor) -> str:
    return coco_mask.encode(np.asfortranarray(frame.numpy().astype(np.uint8)))["counts"].decode()


class TestEncode:
    @pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
    @pytest.mark.parametrize("size", [1, 7, 28])
    def test_equals_pycocotools_on_frames_pasted_by_grid_sample(self, size: int, threshold: float) -> None:
        generator = torch.Generator().manual_seed(size)
        height, width = 90, 120
        boxes = random_boxes(40, height, width, generator)  # many reach over the image, some lie outside
        boxes[:4] += 500
        masks = smooth_masks(40, size, generator) if size > 1 else torch.rand(40, 1, 1, generator=generator)
        encoded = encode_masks(masks, boxes, height, width, threshold)
        for mask, box, rle in zip(masks, boxes, encoded, strict=True):
            value = paste_by_grid_sample(mask, box, height, width)
            # Single precision against double: pixels this near the threshold could fall on either side (none do).
            assert (value - threshold).abs().min() > 1e-7
            assert rle == {"size": [height, width], "counts": coco_encode(value >= threshold)}

    def test_paste_is_what_is_encoded(self) -> None:
        generator = torch.Generator().manual_seed(5)
        masks, boxes = torch.rand(70, 14, 14, generator=generator), random_boxes(70, 50, 64, generator)
        frames = paste_masks(masks, boxes, 50, 64)
        encoded = encode_masks(masks, boxes, 50, 64)
        assert [rle["counts"] for rle in encoded] == [coco_encode(frame) for frame in frames]

    def test_whole_image_and_its_borders(self) -> None:
        # Runs that start at the first pixel, end at the last, or continue from one column into the next.
        ones = torch.ones(5, 4, 4)
        boxes = torch.tensor([[0, 0, 9, 7], [-50, -50, 60, 60], [0, 0, 2, 7], [7, 0, 9, 7], [8, 6, 9, 7.0]])
        for box, rle in zip(boxes.int().tolist(), encode_masks(ones, boxes, 7, 9), strict=True):
            frame = torch.zeros(7, 9, dtype=torch.bool)
            frame[max(box[1], 0) : box[3], max(box[0], 0) : box[2]] = True
            assert rle["counts"] == coco_encode(frame)

    def test_bad_boxes_are_empty(self) -> None:
        nan, inf = float("nan"), float("inf")
        boxes = torch.tensor(
            [
                [nan, 0, 5, 5],
                [0, 0, inf, 5],
                [-inf, 0, 5, 5],
                [3, 3, 3, 8],
                [8, 8, 2, 2],
                [0, 0, 0, 0],
                [1e30, 0, 2e30, 9],
            ]
        )
        empty = coco_encode(torch.zeros(10, 12, dtype=torch.bool))
        assert [rle["counts"] for rle in encode_masks(torch.ones(7, 28, 28), boxes, 10, 12)] == [empty] * 7

    def test_nan_probabilities_count_as_zero(self) -> None:
        masks = torch.ones(1, 4, 4)
        masks[0, :2] = float("nan")
        (rle,) = encode_masks(masks, torch.tensor([[0, 0, 8, 8.0]]), 8, 8)
        assert coco_mask.area(rle) == 32

    def test_half_precision_and_nothing(self) -> None:
        assert encode_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 10, 10) == []
        assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 10, 12).shape == (0, 10, 12)
        masks = torch.rand(3, 28, 28).bfloat16()
        boxes = torch.tensor([[1, 2, 30, 40.0]]).expand(3, 4)
        assert encode_masks(masks, boxes, 50, 50) == encode_masks(masks.float(), boxes, 50, 50)

    @pytest.mark.parametrize("threshold", [0.0, 1e-60])  # the latter is 0 in float32
    def test_threshold_zero_is_rejected(self, threshold: float) -> None:
        with pytest.raises(ValueError, match="threshold"):
            encode_masks(torch.zeros(1, 2, 2), torch.zeros(1, 4), 5, 5, threshold)

    def test_runs_of_a_large_image(self) -> None:
        # Counts of more than 20 bits take five and six characters.
        height, width = 3000, 2500
        boxes = torch.tensor([[2400, 2900, 2499, 2999], [10, 10, 2000, 2900.0]])
        for rle in encode_masks(torch.ones(2, 2, 2), boxes, height, width):
            assert coco_mask.encode(coco_mask.decode(rle))["counts"].decode() == rle["counts"]
            assert run_lengths(rle).sum() == height * width


def test_rounded_frames_paste_as_torchvision_does():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, 2, generator=generator) * torch.tensor([110.0, 90.0]) - 5  # some leave the image
    boxes = torch.cat([corners.amin(1), corners.amax(1) + 0.3], dim=1)
    masks = torch.rand(60, 28, 28, generator=generator)
    expected = paste_masks_in_image(masks[:, None], boxes, (80, 100))[:, 0]
    found = paste_masks(masks, rounded_frames(boxes, 28), 80, 100)
    sure = (expected - 0.5).abs() > 1e-4  # torchvision interpolates in float32
    assert torch.equal(found[sure], (expected > 0.5)[sure])
    assert expected.gt(0.5).sum() > 1000


@needs_compiler
@pytest.mark.parametrize("way", [True], indirect=True)  # both are asked here
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    number=st.integers(0, 40),
    side=st.sampled_from([1, 2, 7, 28]),
    size=st.tuples(st.integers(1, 90), st.integers(1, 120)),
    threshold=st.sampled_from([0.01, 0.3, 0.5, 0.7, 0.95]),
    kind=st.sampled_from(["smooth", "binary", "steps", "at the threshold"]),
    whole=st.booleans(),
)
def test_in_c_every_pixel_and_character_is_numpys(way, seed, number, side, size, threshold, kind, whole):
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(number, *size, generator)
    masks = torch.rand(number, side, side, generator=generator)
    if kind == "at the threshold":
        masks[masks > 0.5] = threshold
    elif kind != "smooth":
        masks = (masks * 4).round() / 4 if kind == "steps" else masks.round()
    arrays = pasting._arrays(masks, boxes.round() if whole else boxes)
    arguments = (*arrays, *size, pasting._above_zero(threshold))
    counts = native.encode(*arguments)
    assert counts == runs.encode(*arguments)
    frames = native.draw(*arguments)
    assert np.array_equal(frames, runs.draw(*arguments))
    for text, frame in zip(counts, frames, strict=True):
        assert text == coco_encode(torch.from_numpy(frame.T))


@pytest.mark.parametrize("threshold", [0.01, 0.7, 0.3])
def test_a_value_at_the_threshold_reaches_it(threshold):
    """In float32 some are a little below the threshold in float64, where a run would end before it begins."""
    arguments = (torch.full((1, 1, 1), threshold), torch.tensor([[2.0, 2, 9, 7]]), 10, 12, threshold)
    (rle,), (frame,) = encode_masks(*arguments), paste_masks(*arguments)
    assert run_lengths(rle).sum() == 120
    assert coco_encode(frame) == rle["counts"]


def test_boxes_of_no_size_to_speak_of_have_runs_of_some_length():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3000, 2, dtype=torch.float64, generator=generator).mul(20).round().add(0.5)
    boxes = torch.cat([corner - 1e-14 * torch.rand(3000, 1, generator=generator), corner + 1e-14], dim=1)
    for rle in encode_masks(torch.rand(3000, 7, 7, generator=generator).round(), boxes, 24, 24):
        assert (run_lengths(rle)[1:] > 0).all()

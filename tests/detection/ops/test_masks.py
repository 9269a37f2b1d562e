"""Bitmaps, RoI targets and RLE against pycocotools, torchvision and slow loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from detection.coco.patches import Patch, bitmap_to_patch, rle_to_patch
from detection.coco.rle import mask_areas, rle_to_bitmap, run_lengths, sound_counts
from detection.fast.pasting import paste_masks
from detection.ops.masks import UNKNOWN, crop_masks
from tests.detection.fast.test_pasting import smooth_masks
from tests.detection.ops.test_polygons import frame_from_bitmap


class TestRle:
    @pytest.mark.parametrize("form", ["bytes", "str", "list"])
    def test_equals_nearest_sampling_of_the_decoded_frame(self, form: str) -> None:
        random = np.random.default_rng(1)
        frame = np.asfortranarray(random.random((23, 31)) < 0.4).astype(np.uint8)
        rle = coco_mask.encode(np.asfortranarray(frame))
        if form == "str":
            rle["counts"] = rle["counts"].decode()
        if form == "list":
            rle["counts"] = run_lengths(rle).tolist()
        box = np.array([-3.3, 4.1, 20.7, 26.2])  # over two sides of the image
        bitmap = rle_to_bitmap(rle, box, size=16)
        for i in range(16):
            for j in range(16):
                row, column = int(np.floor(4.1 + (i + 0.5) * 22.1 / 16)), int(np.floor(-3.3 + (j + 0.5) * 24 / 16))
                expected = frame[row, column] if 0 <= row < 23 and 0 <= column < 31 else 0
                assert bitmap[i, j] == expected

    def test_small_object_is_kept_exactly(self) -> None:
        random = np.random.default_rng(2)
        frame = np.zeros((40, 50), dtype=np.uint8)
        frame[10:30, 5:45] = random.random((20, 40)) < 0.5
        box = np.array([5, 10, 45, 30.0])
        bitmap = rle_to_bitmap(coco_mask.encode(np.asfortranarray(frame)), box)
        np.testing.assert_array_equal(frame_from_bitmap(bitmap, box, 40, 50), frame)

    def test_huge_image_costs_nothing(self) -> None:
        side = 200_000  # 40 GB as a frame
        rle = {"size": [side, side], "counts": [side * 1000 + 500, 200, side * (side - 1000) - 700]}
        bitmap = rle_to_bitmap(rle, np.array([1000, 400, 1001, 800.0]), size=4)
        assert bitmap.tolist() == [[0] * 4, [1] * 4, [1] * 4, [0] * 4]

    def test_run_lengths_inverts_pycocotools(self) -> None:
        random = np.random.default_rng(3)
        for density in (0.0, 0.01, 0.5, 0.99, 1.0):
            frame = (random.random((61, 47)) < density).astype(np.uint8)
            runs = run_lengths(coco_mask.encode(np.asfortranarray(frame)))
            decoded = np.repeat(np.arange(len(runs)) % 2, runs).reshape(47, 61).T
            np.testing.assert_array_equal(decoded, frame)

    @pytest.mark.parametrize(
        "counts",
        [[5, 5], [-5, 105], [], [50, 60], b"", b"\x00\x01", b"o", b"0" * 3, "52203", b"o" * 20 + b"0"],
    )
    def test_bad_counts_are_rejected(self, counts: object) -> None:
        with pytest.raises(ValueError, match="RLE"):
            run_lengths({"size": [10, 10], "counts": counts})


class TestCrop:
    def test_roi_equal_to_the_box_is_the_bitmap(self) -> None:
        masks = (torch.rand(1, 2, 28, 28) < 0.5).to(torch.uint8)
        boxes = torch.tensor([[[3, 5, 40, 60.0], [0, 0, 10, 10]]])
        crops = crop_masks(masks, boxes, torch.tensor([[1, 0]]), boxes.flip(1), size=28)
        assert torch.equal(crops, masks.flip(1).float())

    def test_outside_the_box_is_zero(self) -> None:
        masks = torch.ones(1, 1, 16, 16, dtype=torch.uint8)
        boxes = torch.tensor([[[10, 10, 20, 20.0]]])
        crops = crop_masks(
            masks, boxes, torch.tensor([[0, 0]]), torch.tensor([[[10, 0, 20, 40.0], [30, 30, 50, 50]]]), 4
        )
        assert crops[0, 0].tolist() == [[0] * 4, [1] * 4, [0] * 4, [0] * 4]  # row 1 spans 10..20
        assert not crops[0, 1].any()

    def test_unknown_is_minus_one(self) -> None:
        masks = torch.zeros(2, 2, 8, 8, dtype=torch.uint8)
        masks[1, 1] = UNKNOWN
        boxes = torch.tensor([0, 0, 8, 8.0]).expand(2, 2, 4)
        crops = crop_masks(masks, boxes, torch.tensor([[0, 1], [0, 1]]), boxes, size=4)
        assert (crops[1, 1] == -1).all()
        assert (crops.flatten(2) == 0).all(dim=2).tolist() == [[True, True], [True, False]]

    def test_padding_is_harmless(self) -> None:
        masks = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
        crops = crop_masks(masks, torch.zeros(1, 1, 4), torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, 4))
        assert crops.shape == (1, 3, 28, 28)
        assert torch.isfinite(crops).all()

    def test_agrees_with_roi_align_on_full_frames(self) -> None:
        generator = torch.Generator().manual_seed(0)
        height, width, number = 200, 240, 12
        corner = torch.rand(number, 2, generator=generator) * 90
        boxes = torch.cat([corner, corner + 30 + 70 * torch.rand(number, 2, generator=generator)], dim=1)
        frames = paste_masks(smooth_masks(number, 28, generator), boxes, height, width)
        bitmaps = [
            rle_to_bitmap(coco_mask.encode(np.asfortranarray(f.numpy().astype(np.uint8))), b.numpy())
            for f, b in zip(frames, boxes, strict=True)
        ]
        extent = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        rois = boxes + torch.randn(number, 4, generator=generator) * 0.1 * extent
        index = torch.arange(number)
        ours = crop_masks(torch.from_numpy(np.stack(bitmaps))[None], boxes[None], index[None], rois[None])[0]
        indexed = torch.cat([index[:, None].float(), rois], dim=1)
        judge = roi_align(frames[:, None].float(), indexed, 28, aligned=True)[:, 0]
        # roi_align averages over the cell: only cells on an outline may differ.
        assert (ours == (judge >= 0.5).float()).float().mean() > 0.98
        # torchvision's own targets lie half a pixel off (aligned=False).
        judge = project_masks_on_boxes(frames.to(torch.uint8), rois, index, 28)
        assert (ours == (judge >= 0.5).float()).float().mean() > 0.93


def test_many_counts_are_looked_at_as_one_by_one() -> None:
    """Whole ones, and ones that are cut, changed, empty or of another image; beside each other."""
    generator = np.random.default_rng(0)
    counts, pixels = [], []
    for k in range(600):
        height, width = generator.integers(3, 40, 2)
        bitmap = generator.random((height, width)) < generator.choice([0.0, 0.2, 0.9, 1.0])
        text = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))["counts"].decode()
        kind = k % 6
        if kind == 1:
            text = text[: generator.integers(0, len(text))]
        elif kind == 2:
            place = generator.integers(0, len(text))
            text = text[:place] + chr(generator.integers(33, 127)) + text[place + 1 :]
        elif kind == 3:
            text = text + "o" * int(generator.integers(0, 15)) + "1"
        elif kind == 4:
            height += 1
        counts.append(text)
        pixels.append(int(height * width))
    expected = []
    for text, size in zip(counts, pixels, strict=True):
        try:
            run_lengths({"counts": text, "size": [size, 1]})
            expected.append(True)
        except ValueError:
            expected.append(False)
    assert 200 < sum(expected) < 450
    assert sound_counts(counts, np.array(pixels)).tolist() == expected
    assert sound_counts([], np.zeros(0, dtype=np.int64)).tolist() == []
    assert sound_counts(["", "\u00e9", "0"], np.array([4, 4, 0])).tolist() == [False, False, True]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]))
def test_runs_of_any_bitmap_are_its_pixels(height: int, width: int, seed: int, share: float) -> None:
    bitmap = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    rle = coco_mask.encode(np.asfortranarray(bitmap))
    runs = run_lengths(rle)
    drawn = np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T
    assert np.array_equal(drawn, bitmap)
    assert sound_counts([rle["counts"].decode()], np.array([height * width])).tolist() == [True]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 40))
def test_a_crop_of_the_whole_box_is_the_mask_and_half_of_it_is_half(seed: int, size: int) -> None:
    generator = np.random.default_rng(seed)
    mask = np.repeat(np.repeat(generator.integers(0, 2, (4, 4), np.uint8), 28, axis=0), 28, axis=1)  # 112 x 112
    x0, y0, w, h = generator.uniform([0, 0, 8, 8], [50, 50, 90, 90])
    box = torch.tensor([[[x0, y0, x0 + w, y0 + h]]])
    left = torch.tensor([[[x0, y0, x0 + w / 2, y0 + h]]])
    index = torch.zeros(1, 1, dtype=torch.long)
    bitmap = torch.from_numpy(mask)[None, None]
    whole = crop_masks(bitmap, box.float(), index, box.float(), size)
    centres = ((np.arange(size) + 0.5) / size * 4).astype(int)
    clear = np.abs((np.arange(size) + 0.5) / size * 4 % 1 - 0.5) < 0.45  # not on the edge of a cell
    expected = mask[::28, ::28][np.ix_(centres, centres)]
    found = whole[0, 0].numpy()
    assert np.array_equal(found[np.ix_(clear, clear)], expected[np.ix_(clear, clear)])
    half = crop_masks(bitmap, box.float(), index, left.float(), 2 * size)[0, 0].numpy()
    wide = crop_masks(bitmap, box.float(), index, box.float(), 2 * size)[0, 0].numpy()
    assert abs(half.mean() - wide[:, :size].mean()) < 0.12


def test_areas_of_more_masks_than_pycocotools_can_count_at_once() -> None:
    bitmaps = np.random.default_rng(0).random((20, 15, 600)) < 0.4
    rles = coco_mask.encode(np.asfortranarray(bitmaps.astype(np.uint8)))
    with pytest.raises(OverflowError):  # once it can, ours can go
        coco_mask.area(rles)
    np.testing.assert_array_equal(mask_areas(rles), bitmaps.sum(axis=(0, 1)))
    assert mask_areas([]).shape == (0,)


def whole(patch: Patch, height: int, width: int) -> np.ndarray:
    frame = np.zeros((height, width), dtype=bool)
    frame[patch.place] = patch.pixels
    return frame


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10_000), st.sampled_from([0.0, 0.02, 0.2, 0.9, 1.0]))
def test_a_patch_is_the_mask_without_its_empty_surroundings(height: int, width: int, seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    frame = random.random((height, width)) < share
    rle = coco_mask.encode(np.asfortranarray(frame.astype(np.uint8)))
    for form in (rle, rle | {"counts": rle["counts"].decode()}, rle | {"counts": run_lengths(rle).tolist()}):
        patch = rle_to_patch(form)
        assert patch.pixels.dtype == bool
        assert np.array_equal(whole(patch, height, width), frame)
        left, top, columns, rows = coco_mask.toBbox(rle).astype(int).tolist()
        assert patch.pixels.shape == (rows, columns)
        if frame.any():
            assert (patch.top, patch.left) == (top, left)
    of_bitmap = bitmap_to_patch(frame)
    assert (of_bitmap.top, of_bitmap.left) == (patch.top, patch.left)
    assert np.array_equal(of_bitmap.pixels, patch.pixels)


def test_runs_of_no_pixels_are_no_part_of_a_patch() -> None:
    patch = rle_to_patch({"size": [4, 3], "counts": [0, 0, 5, 1, 2, 0, 4, 0]})
    assert (patch.top, patch.left, patch.pixels.tolist()) == (1, 1, [[True]])


def test_a_patch_of_a_huge_image_costs_nothing() -> None:
    patch = rle_to_patch({"size": [100_000, 100_000], "counts": [300_002, 3, 9_999_699_995]})
    assert (patch.top, patch.left, patch.pixels.tolist()) == (2, 3, [[True]] * 3)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000))
def test_a_window_shows_what_the_frame_shows(seed: int) -> None:
    random = np.random.default_rng(seed)
    frame = np.zeros((9, 11), dtype=bool)
    low, high = random.integers(0, 6, 2), random.integers(1, 6, 2)
    frame[low[0] : low[0] + high[0], low[1] : low[1] + high[1]] = True
    top, left = random.integers(0, 9, 2).tolist()
    height, width = random.integers(0, 3, 2).tolist()
    shown = bitmap_to_patch(frame).window(top, left, height, width)
    padded = np.pad(frame, ((0, 9), (0, 9)))
    assert np.array_equal(shown, padded[top : top + height, left : left + width])


def test_a_sample_near_the_border_of_a_bitmap_has_the_value_of_its_first_cells():
    """At (0.01, 1.1) of 2 x 2 cells: between the first cells of both rows, 0.4 from the upper one."""
    masks = torch.tensor([[[[1, 0], [0, 0]]]], dtype=torch.uint8)
    boxes, index = torch.tensor([[[0.0, 0, 2, 2]]]), torch.zeros(1, 1, dtype=torch.int64)
    for middle, value in ((1.1, 0.0), (0.9, 1.0)):
        roi = torch.tensor([[[0.0, middle - 0.1, 0.02, middle + 0.1]]])
        assert crop_masks(masks, boxes, index, roi, 1).flatten().tolist() == [value]
        turned = crop_masks(masks, boxes, index, roi[..., [1, 0, 3, 2]], 1)
        assert turned.flatten().tolist() == [value]

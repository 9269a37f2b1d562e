"""Run lengths against pycocotools and against worked numbers; broken ones are known as such."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detection.coco import rle as module
from detection.coco.rle import mask_areas, rle_to_bitmap, run_lengths, sound_counts


def masks(number: int, seed: int = 0) -> list[np.ndarray]:
    """Random masks of up to 9 x 9 pixels, some empty, some full."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 10, (number, 2)).tolist()
    return [(generator.random(size) < generator.choice([0, 0.1, 0.5, 0.9, 1])).astype(np.uint8) for size in sizes]


def packed(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask))


def test_runs_are_those_of_the_mask():
    for mask in masks(100):
        runs = run_lengths(packed(mask))
        assert np.array_equal(np.repeat(np.arange(len(runs)) % 2, runs), mask.ravel(order="F"))
        listed = {"size": list(mask.shape), "counts": runs.tolist()}
        assert np.array_equal(run_lengths(listed), runs)


@pytest.mark.parametrize("side", [1, 2, 31, 32, 33, 1000, 2000, 40_000])
def test_long_runs_have_several_digits(side):
    """A digit has five bits, of which the last has a sign."""
    for counts in (
        [side * side],
        [0, side * side],
        [side * side - 1, 1],
        [1, side * side - 1],
        [5, 3, side * side - 8],
    ):
        if min(counts) < 0:
            continue
        rle = coco_mask.frPyObjects({"size": [side, side], "counts": counts}, side, side)
        assert run_lengths(rle).tolist() == counts
        assert sound_counts([rle["counts"].decode()], np.array([side * side])).tolist() == [True]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("", "RLE counts are empty or incomplete, or contain invalid characters"),
        ("/", "invalid characters"),
        ("p", "invalid characters"),
        ("P", "incomplete"),
        ("P" * 12 + "0", "RLE counts contain a run of more than 60 bits"),
        ("P" * 11 + "0", "the runs of the RLE sum to 0, but its size is 2 x 3"),
        ("5", "the runs of the RLE sum to 5, but its size is 2 x 3"),
        ("7", "the runs of the RLE sum to 7"),
        ([6, 1, -1], "the runs of the RLE sum to 6"),
        ([7, -1], "the runs of the RLE sum to 6"),
        ([[6]], "RLE counts must be text or a list of integers"),
    ],
)
def test_broken_runs_are_errors(counts, message):
    with pytest.raises(ValueError, match=message):
        run_lengths({"size": [2, 3], "counts": counts})
    if isinstance(counts, str):
        assert sound_counts([counts, "6"], np.array([6, 6])).tolist() == [False, True]


@pytest.mark.parametrize(("digits", "valid"), [(1, True), (11, True), (12, True), (13, False)])
def test_a_run_has_at_most_twelve_digits(digits, valid):
    """A run may have zeros behind its value: COCO's code of 5 in more characters than it needs."""
    counts = chr(48 + 5) if digits == 1 else chr(48 + 32 + 5) + chr(48 + 32) * (digits - 2) + "0"
    assert sound_counts([counts, "5"], np.array([5, 5])).tolist() == [valid, True]
    assert is_sound(counts, 5) == valid


def test_every_character_from_0_to_o_is_valid():
    """The first has the value 0, the last 31 with a digit behind it: 31 + 32."""
    assert run_lengths({"size": [7, 9], "counts": "o1"}).tolist() == [63]
    assert run_lengths({"size": [7, 9], "counts": "0o1"}).tolist() == [0, 63]
    assert sound_counts(["o1", "0o1", "p1", "/o1"], np.array([63] * 4)).tolist() == [True, True, False, False]


def test_huge_runs_whose_sum_overflows_are_errors():
    counts = [2**62, 2**62, 2**62, 2**62, 6]
    with pytest.raises(ValueError, match="the runs of the RLE sum to 6"):
        run_lengths({"size": [2, 3], "counts": counts})


def is_sound(counts: str, pixels: int) -> bool:
    try:
        run_lengths({"size": [1, pixels], "counts": counts})
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("chunk", [1, 2, 7, 1024])
def test_many_counts_are_sound_exactly_if_each_is(monkeypatch, chunk):
    monkeypatch.setattr(module, "_CHUNK_OF_COUNTS", chunk)
    generator = np.random.default_rng(chunk)
    counts, pixels = [], []
    for mask in masks(400, seed=chunk):
        text = list(packed(mask)["counts"].decode())
        kind = generator.integers(4)
        if kind == 0:  # one character changed
            text[generator.integers(len(text))] = generator.choice([*"/01O?@PQ_`op"])
        elif kind == 1:  # any text
            text = generator.choice([*"0123PQo"], generator.integers(0, 14)).tolist()
        counts.append("".join(text))
        pixels.append(mask.size + int(generator.integers(10) == 0))
    expected = [is_sound(*pair) for pair in zip(counts, pixels, strict=True)]
    assert sound_counts(counts, np.array(pixels)).tolist() == expected
    assert 100 < sum(expected) < 300
    assert sound_counts([], np.zeros(0, dtype=np.int64)).tolist() == []
    assert sound_counts(["", "p"], np.array([0, 0])).tolist() == [False, False]


def test_a_bitmap_samples_the_mask_at_the_centres_of_its_cells():
    generator = np.random.default_rng(1)
    for mask in masks(60, seed=2):
        height, width = mask.shape
        for _ in range(3):
            x0, y0 = generator.integers(-6, 10, 2) / 2
            x1, y1 = (x0, y0) + generator.integers(1, 16, 2) / 2
            found = rle_to_bitmap(packed(mask), np.array([x0, y0, x1, y1]), 5)
            for row in range(5):
                for column in range(5):
                    x = int(np.floor(x0 + (column + 0.5) / 5 * (x1 - x0)))
                    y = int(np.floor(y0 + (row + 0.5) / 5 * (y1 - y0)))
                    inside = 0 <= x < width and 0 <= y < height
                    assert found[row, column] == (mask[y, x] if inside else 0)


def test_a_bitmap_has_112_cells_a_side_unless_told():
    assert rle_to_bitmap({"size": [2, 3], "counts": [0, 6]}, np.array([0.0, 0, 3, 2])).shape == (112, 112)
    for size in ([0, 3], [2, 0]):
        assert not rle_to_bitmap({"size": size, "counts": []}, np.array([0.0, 0, 3, 2]), 4).any()


@pytest.mark.parametrize("number", [0, 1, 255, 256, 511])
def test_areas_of_any_number_of_masks(number):
    drawn = masks(number)
    assert mask_areas([packed(mask) for mask in drawn]).tolist() == [int(mask.sum()) for mask in drawn]

"""Photometric distortion against worked numbers, with choices that the test makes."""

import numpy as np
import pytest

from detection.data.photometric import PhotometricDistortion
from detection.data.scene import Scene

STEPS = ("brightness", "early", "contrast", "saturation", "hue", "order")


class Chosen:
    """Takes the named steps, and the upper or the lower end of each range."""

    def __init__(self, *steps: str, high: bool = True) -> None:
        self._random = iter([0.49 if step in steps else 0.5 for step in STEPS])
        self._high, self.ranges = high, []

    def random(self) -> float:
        return next(self._random)

    def uniform(self, low: float, high: float) -> float:
        self.ranges.append((low, high))
        return high if self._high else low

    def permutation(self, number: int) -> np.ndarray:
        return np.roll(np.arange(number), 1)


def distorted(pixel, *steps, high=True, dtype=np.uint8, **settings) -> list[int]:
    image = np.array([[pixel]], dtype=dtype)
    scene = Scene(image, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool), [])
    found = PhotometricDistortion(**settings)(scene, Chosen(*steps, high=high)).image
    assert (found.shape, found.dtype) == (image.shape, dtype)
    return found[0, 0].tolist()


@pytest.mark.parametrize(
    ("steps", "high", "expected"),
    [
        ((), True, [100, 50, 60]),
        (("brightness",), True, [132, 82, 92]),
        (("brightness",), False, [68, 18, 28]),
        (("contrast",), True, [150, 75, 90]),
        (("contrast",), False, [50, 25, 30]),
        (("contrast", "early"), True, [150, 75, 90]),
        (("brightness", "contrast", "early"), True, [198, 123, 138]),
        (("brightness", "contrast"), True, [198, 123, 138]),
        (("saturation",), True, [100, 25, 40]),  # the distance from the largest grows
        (("saturation",), False, [100, 75, 80]),
        (("order",), True, [60, 100, 50]),
    ],
)
def test_each_step_with_the_published_ranges(steps, high, expected):
    assert distorted([100, 50, 60], *steps, high=high) == expected
    deep = distorted([25700, 12850, 15420], *steps, high=high, dtype=np.uint16)
    assert np.abs(np.array(deep) - np.array(expected) * 257).max() <= 2


def test_the_ranges_are_those_of_ssd():
    choices = Chosen()
    scene = Scene(np.zeros((1, 1, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool), [])
    PhotometricDistortion()(scene, choices)
    assert choices.ranges == [(-32, 32), (0.5, 1.5), (0.5, 1.5), (-18, 18)]


def test_values_end_at_black_and_white():
    assert distorted([250, 5, 128], "brightness") == [255, 37, 160]
    assert distorted([250, 5, 128], "brightness", high=False) == [218, 0, 96]
    assert distorted([65000, 5, 128], "brightness", dtype=np.uint16)[0] == 65535


def test_a_turn_of_the_hue_exchanges_the_colors():
    assert distorted([200, 0, 0], "hue", hue=120) == [0, 200, 0]
    assert distorted([200, 0, 0], "hue", hue=120, high=False) == [0, 0, 200]
    assert distorted([200, 0, 0], "hue", hue=60) == [200, 200, 0]


def test_saturation_comes_between_early_and_late_contrast():
    settings = {"contrast": (2, 2), "saturation": (2, 2)}
    assert distorted([100, 80, 90], "contrast", "saturation", **settings) == [200, 120, 160]
    assert distorted([150, 80, 90], "contrast", "early", "saturation", **settings) == [255, 20, 60]


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_images_change_in_brightness_and_contrast_alone(channels):
    pixel = [100, 50, 60, 70][:channels]
    assert distorted(pixel, "saturation", "hue", "order") == pixel
    assert distorted(pixel, "brightness", "contrast") == [round((value + 32) * 1.5) for value in pixel]


@pytest.mark.parametrize("name", ["brightness", "hue"])
def test_changes_may_be_zero_but_not_below(name):
    PhotometricDistortion(**{name: 0}).check()
    with pytest.raises(ValueError, match=r"data\.photometric: brightness and hue must not be below 0"):
        PhotometricDistortion(**{name: -0.1}).check()


@pytest.mark.parametrize("name", ["contrast", "saturation"])
def test_factors_are_ordered(name):
    for fine in ((0, 0), (1, 1), (0.5, 2)):
        PhotometricDistortion(**{name: fine}).check()
    for wrong in ((-0.1, 1), (1.1, 1)):
        with pytest.raises(ValueError, match=rf"data\.photometric\.{name} must be two factors, the smaller one first"):
            PhotometricDistortion(**{name: wrong}).check()

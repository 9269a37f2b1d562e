"""The status line of a run for different widths."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.engine.status import Field, compose, gauge, training

PARTS = {"rpn_cls": 0.0709, "rpn_loc": 0.0206, "cls": 0.398, "box_reg": 0.357, "mask": 0.65}
ITERATIONS = Field(0, "iteration 52300/90000", "52300/90000")
EPOCHS = Field(0, "epoch 3/12  batch 4531/7330", "epoch 3/12 61%")


def line(width: float, place: Field = ITERATIONS, **changes: float) -> str:
    values = {"done": 0.58, "loss": 1.4123, "lr": 0.0002, "speed": 12.345, "left": 11553.0} | changes
    return compose(training(place, parts=PARTS, **values), width)


@pytest.mark.parametrize("place", [ITERATIONS, EPOCHS])
@pytest.mark.parametrize("width", [59, 109, 199])
def test_nothing_important_is_cut_off_at_usual_widths(place, width):
    text = line(width, place)
    assert len(text) <= width
    for word in ("loss 1.41", "lr 0.0002", "ETA 3:12:33"):
        assert word in text
    assert "12.3 im" in text
    assert place.short in text or place.long in text


def test_lines_at_60_110_and_200_columns():
    assert line(59) == "52300/90000  loss 1.41  lr 0.0002  12.3 img/s  ETA 3:12:33"
    assert line(109).startswith(
        "[#####.....]  52300/90000  loss 1.41  lr 0.0002  12.3 img/s  ETA 3:12:33  rpn_cls 0.0709"
    )
    assert line(199).startswith("[###########.........]  iteration 52300/90000  loss 1.41  lr 0.0002  12.3 images/s")
    assert line(199).endswith("cls 0.398  box_reg 0.357  mask 0.65")


@given(width=st.integers(1, 250), left=st.floats(0, 1e7), loss=st.floats(0, 1e9), lr=st.floats(1e-9, 1))
def test_it_fits_any_width_and_keeps_the_place_longest(width, left, loss, lr):
    text = line(width, left=left, loss=loss, lr=lr)
    assert len(text) <= width
    assert "52300/90000"[:width] in text
    if "loss" in text:
        assert "ETA" in text
    if "lr" in text:
        assert "img/s" in text or "images/s" in text


def test_what_is_not_known_is_not_there():
    text = line(200, speed=math.nan, left=math.nan, loss=None, done=math.nan)
    assert text.startswith("iteration 52300/90000  lr 0.0002  rpn_cls")


@pytest.mark.parametrize(
    ("share", "bar"), [(0, "[....]"), (0.5, "[##..]"), (0.99, "[###.]"), (1, "[####]"), (7, "[####]")]
)
def test_the_bar(share, bar):
    assert gauge(share, 4) == bar

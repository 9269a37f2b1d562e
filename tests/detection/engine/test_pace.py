"""Speed and remaining time, with a fake clock."""

import math

import pytest

from detection.engine.pace import Pace, duration, time_left


def test_speed_is_that_of_the_last_batches_without_pauses_and_starts():
    now = [0.0]
    pace = Pace(window=3, clock=lambda: now[0])
    assert math.isnan(pace.seconds)
    assert math.isnan(pace.images_per_second)
    for seconds in (50, 9, 1, 2):  # the first holds the start of the workers
        now[0] += seconds
        pace.tick(4)
    assert pace.seconds == 4  # (9 + 1 + 2) / 3
    pace.pause()
    now[0] += 1000  # an evaluation
    pace.tick(4)
    assert pace.seconds == 4
    now[0] += 3
    pace.tick(6)
    assert pace.seconds == 2  # (1 + 2 + 3) / 3
    assert pace.images_per_second == (4 + 4 + 6) / 6
    assert pace.count == 6


def test_the_time_left_has_the_evaluations_in_it():
    assert time_left(100, 0.5, 2, 30) == 110
    assert math.isnan(time_left(math.inf, 0.5))
    assert math.isnan(time_left(100, math.nan))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0:00"), (7.4, "0:07"), (753, "12:33"), (11553, "3:12:33"), (86399.6, "1d 00h"), (97200, "1d 03h")],
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text

import math

from detection.evaluation.percent import percent


def test_one_decimal_and_a_sign_for_nothing():
    assert percent(0.5049) == "50.5"
    assert percent(1.0) == "100.0"
    assert percent(math.nan) == "–"
    assert percent(math.nan, "n/a") == "n/a"

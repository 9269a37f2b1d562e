from argparse import Namespace

import pytest

from detection.predicting.options import check_least


def test_the_option_is_named_with_what_it_may_be():
    options = Namespace(batch=1, short_sides=[64, 0], tile=None)
    check_least(options, {"batch": 1, "tile": 32})
    check_least(options, {"short_sides": 0})
    with pytest.raises(ValueError, match=r"^--short-sides 64 0: must be at least 1$"):
        check_least(options, {"batch": 1, "short_sides": 1})

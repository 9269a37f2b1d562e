from argparse import Namespace

import pytest

from detection.inference.options import check_apart, check_least


def test_the_option_is_named_with_what_it_may_be():
    options = Namespace(batch=1, short_sides=[64, 0], tile=None)
    check_least(options, {"batch": 1, "tile": 32})
    check_least(options, {"short_sides": 0})
    with pytest.raises(ValueError, match=r"^--short-sides 64 0: must be at least 1$"):
        check_least(options, {"batch": 1, "short_sides": 1})


def test_two_options_of_which_one_would_be_ignored_are_named():
    given = {"size": [48, 96], "tile": None, "short_sides": [64], "flip": True, "batch": 4}
    with pytest.raises(ValueError, match=r"^--short-sides and --size cannot be combined; remove one of them$"):
        check_apart(given, "--")
    check_apart(given | {"short_sides": None})
    check_apart(given | {"size": None})
    with pytest.raises(ValueError, match=r"^tile and flip cannot be combined"):
        check_apart({"size": (), "tile": 64, "short_sides": (), "flip": True})

import pytest

from detection.engine.checks import check_categories
from detection.structures import Categories

ANIMALS = Categories(("cat", "dog"), (1, 7))


def test_the_same_classes_pass():
    check_categories({"names": ["dog", "cat"], "ids": [7, 1]}, ANIMALS)
    check_categories(None, ANIMALS)


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        (["cat", "bird"], [1, 7], "id 7: bird in the checkpoint, dog in the annotations$"),
        (["cat", "dog", "cow"], [1, 7, 9], "id 9: cow in the checkpoint, none in the annotations$"),
    ],
)
def test_other_classes_are_named(names, ids, message):
    with pytest.raises(ValueError, match=message):
        check_categories({"names": names, "ids": ids}, ANIMALS)

import pytest

from detection.commands.predict import prepare as spread
from detection.inference.thresholds import per_class, read_thresholds

NAMES = ("person", "car", "traffic light")


def test_one_threshold_is_for_all_classes_and_a_mapping_for_its_own():
    assert per_class(0.25, NAMES).tolist() == [0.25] * 3
    assert per_class({"car": 0.75, "person": 0}, NAMES).tolist() == [0, 0.75, 0.5]
    assert per_class({}, NAMES).tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], [0.5, 0.5, 0.5]),
        (["0.25"], [0.25, 0.25, 0.25]),
        (["person=0.6", "car=0.3"], [0.6, 0.3, 0.5]),
        (["0.1", "traffic light=1"], [0.1, 0.1, 1]),
        (["car=0.3", "car=0.4", "0.2", "0.7"], [0.7, 0.4, 0.7]),
    ],
)
def test_words_of_the_command_line(texts, expected):
    assert read_thresholds(texts, NAMES) == dict(zip(NAMES, expected, strict=True))


def test_names_may_hold_the_sign():
    assert read_thresholds(["a=b=0.25"], ("a=b",)) == {"a=b": 0.25}


@pytest.mark.parametrize("text", ["50", "nan", "-0.1", "car=2", "car=", "car", "car=high"])
def test_what_is_no_score_is_rejected(text):
    with pytest.raises(ValueError, match=f"--score {text}: must be a number from 0 to 1"):
        read_thresholds([text], NAMES)


def test_unknown_classes_are_rejected_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"^--score: the model has no class trafic light; did you mean traffic light\?$"
    ):
        read_thresholds(["trafic light=0.5"], NAMES)
    with pytest.raises(ValueError, match=r"^score_threshold: .* no class cat, persn; did you mean person, car\?$"):
        per_class({"cat": 0.5, "car": 0.5, "persn": 0.1}, NAMES)
    with pytest.raises(ValueError, match=r"has no class zebra; it has person, car, traffic light$"):
        per_class({"zebra": 0.5}, NAMES)
    with pytest.raises(ValueError, match=r"it has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more$"):
        per_class({"zebra": 0.5}, [str(k) for k in range(12)])


def test_positional_words_may_follow_thresholds():
    words = ["--score", "0.5", "person=0.6", "car=0.3", "best.ckpt", "a=b.jpg", "--flip"]
    expected = ["--score", "0.5", "--score", "person=0.6", "--score", "car=0.3", "best.ckpt", "a=b.jpg", "--flip"]
    assert spread(words) == expected
    assert spread(["--score=0.5", "car=0.3", "x"]) == ["--score=0.5", "--score", "car=0.3", "x"]
    assert spread(["x", "car=0.3"]) == ["x", "car=0.3"]
    assert spread([]) == []

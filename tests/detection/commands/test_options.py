import pytest

from detection.commands.main import parse, parser_of
from detection.commands.options import with_long_sides


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--size 640", "--size 640 1066"),
        ("--size=480", "--size 480 800"),
        ("m --size 1024 a.jpg", "m --size 1024 1706 a.jpg"),
        ("--size 320 --score 0.5", "--size 320 533 --score 0.5"),
        ("--size 300 400 a.jpg", "--size 300 400 a.jpg"),
        ("--size=300 400", "--size 300 400"),
        ("a.jpg --size", "a.jpg --size"),
        ("--size big", "--size big"),
        ("--sizes 3", "--sizes 3"),
        ("--size 800 --size 640", "--size 800 1333 --size 640 1066"),
    ],
)
def test_one_number_is_the_shortest_side(given, words):
    assert with_long_sides(given.split()) == words.split()


@pytest.mark.parametrize("name", ["predict", "evaluate", "benchmark"])
def test_commands_take_one_number(name):
    given = {"predict": ["model", "a.jpg"], "evaluate": ["model", "--data", "d"], "benchmark": ["model"]}[name]
    model, *rest = given
    assert parse(parser_of(name), [model, "--size", "640", *rest]).size == [640, 1066]


def test_training_takes_one_number():
    assert parse(parser_of("train"), ["demo", "--size", "640", "--data.flip", "0"], settings=True).size == [640, 1066]


def test_another_size_keeps_its_meaning():
    with pytest.raises(Exception, match="expected 2 arguments"):
        parse(parser_of("backbones"), ["show", "resnet50", "--size", "640"])

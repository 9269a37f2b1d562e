import pytest

from detection.engine.config_errors import explain, wrong_key
from detection.engine.hints import nearest

OPTIONS = ["model.backbone.name", "model.optimizer.lr", "trainer.max_epochs", "trainer.max_steps", "data.root"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("trainer.max_epoch", "trainer.max_epochs"),
        ("modle.backbone.name", "model.backbone.name"),
        ("lr", "model.optimizer.lr"),
        ("data.rot", "data.root"),
        ("qqqqqq", None),
    ],
)
def test_the_nearest_option(word, expected):
    assert nearest(word, OPTIONS) == (f"; did you mean {expected}?" if expected else "")


@pytest.mark.parametrize(
    ("message", "key"),
    [
        ("unrecognized arguments: --trainer.max_epoch 3", "trainer.max_epoch"),
        ("Group 'model.backbone' does not accept option 'nam'", "model.backbone.nam"),
        ("Subcommand 'fit' does not accept option 'model.backbone.nam'", "model.backbone.nam"),
        ("Option 'num_classes' is not accepted", "num_classes"),
        ("Parser key \"data.batch_size\":\n  Expected a <class 'int'>. Got value: many", None),
    ],
)
def test_what_a_parser_rejects(message, key):
    assert wrong_key(message) == key


def test_the_place_of_a_mistake(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\nmodel:\n  backbone:\n    nam: resnet50\n")
    told = explain("Subcommand 'fit' does not accept option 'model.backbone.nam'", OPTIONS, [str(path)])
    assert told == f"no option model.backbone.nam ({path}, line 4); did you mean model.backbone.name?"


def test_num_classes_is_explained():
    assert "come from the annotations" in explain("unrecognized arguments: --model.num_classes 3", OPTIONS, [])


def test_a_wrong_value_is_told_without_the_parsers_inner_life():
    message = "Parser key \"model.norm\":\n  Expected a typing.Literal['frozen', 'batch']. Got value: froze"
    expected = "model.norm:\n  Expected one of 'frozen', 'batch'. Got value: froze; did you mean frozen?"
    assert explain(message, OPTIONS, []) == expected

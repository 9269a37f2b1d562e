import pytest

from detection.documents import DocumentError
from detection.engine.configs import explain, find_config, list_configs, load_yaml, nearest, shipped, wrong_key

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


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: {b: 1, c: 2, b: 3}", "- {x: 1, x: 1}"])
def test_a_key_twice_is_refused(text):
    with pytest.raises(DocumentError, match="occurs twice"):
        load_yaml(text)


@pytest.mark.parametrize("text", ["a: 1\nb: {a: 2}", "[1, 2]", "1e-3", "null", "", "resnet50"])
def test_other_yaml_is_read_as_ever(text):
    from jsonargparse import get_loader

    assert load_yaml(text) == get_loader("yaml")(text)


def test_shipped_configs_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "mask_rcnn_r50_fpn_1x_coco",
        "mask_rcnn_r50_fpn_1x_coco.yaml",
        "configs/mask_rcnn_r50_fpn_1x_coco.yaml",
    ):
        assert find_config(name) == str(shipped()["mask_rcnn_r50_fpn_1x_coco"])
    assert find_config("schedules/3x") == str(shipped()["schedules/3x"])
    with pytest.raises(FileNotFoundError, match="did you mean mask_rcnn_r50_fpn_1x_coco"):
        find_config("mask_rcnn_r50_fnp_1x_coco")


def test_a_file_here_comes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("{}")
    assert find_config("mine.yaml") == "mine.yaml"


def test_the_listed_configs_are_found():
    assert list_configs("*mask_rcnn_r50_fpn_1x_coco") == ["mask_rcnn_r50_fpn_1x_coco"]
    assert set(list_configs()) == set(shipped())
    assert all(find_config(name) for name in list_configs("data/*"))

"""Configs are found by name or file, combined from parts, and wrong ones raise a one-line error."""

import subprocess
import sys
from pathlib import Path

import pytest

from detection.documents import DocumentError
from detection.engine.configs import combine, list_configs, load_yaml, names_of_configs, read_config, write_settings

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
NAME = "mask_rcnn_r50_fpn_1x_coco"


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: {b: 1, c: 2, b: 3}", "- {x: 1, x: 1}"])
def test_a_key_twice_is_rejected(text):
    with pytest.raises(DocumentError, match="occurs twice"):
        load_yaml(text)


@pytest.mark.parametrize("text", ["a: 1\nb: {a: 2}", "[1, 2]", "1e-3", "null", "", "resnet50"])
def test_other_yaml_is_read_as_ever(text):
    from jsonargparse import get_loader

    assert load_yaml(text) == get_loader("yaml")(text)


@pytest.mark.parametrize(
    "name",
    [NAME, f"{NAME}.yaml", f"configs/{NAME}.yaml", str(CONFIGS / f"{NAME}.yaml"), str(CONFIGS / "data/../" / NAME)],
)
def test_shipped_configs_are_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_config(name)
    assert config.info.name == NAME
    assert config.settings["model"]["mask_head"]["convs"] == 4
    assert CONFIGS / "schedules/1x.yaml" in config.files


def test_a_path_elsewhere_is_not_taken_for_a_shipped_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config"):
        read_config(tmp_path / "configs" / "nuclei.yaml")


def test_a_path_into_the_folder_from_beside_it_is_a_name(monkeypatch):
    monkeypatch.chdir(CONFIGS / "data")
    assert read_config(f"../{NAME}.yaml").info.name == NAME


@pytest.mark.parametrize(
    "group", ["model", "data", "trainer", "run", "model.backbone", "model.rpn.anchors", "model.optimizer"]
)
def test_a_group_without_settings_is_rejected(tmp_path, group):
    """It would drop the settings that the parts have in this group."""
    lines = [f"{'  ' * depth}{name}:" for depth, name in enumerate(group.split("."))]
    (tmp_path / "mine.yaml").write_text("\n".join([f"parts: [{NAME}]", *lines, "seed_everything: 1", ""]))
    with pytest.raises(DocumentError, match=rf"mine\.yaml: {group}: has no settings; indent some below it, or remove"):
        read_config(tmp_path / "mine.yaml")


def test_null_replaces_a_part_that_a_detector_can_lack(tmp_path):
    (tmp_path / "mine.yaml").write_text(f"parts: [{NAME}]\nmodel: {{mask_head: null}}\n")
    assert read_config(tmp_path / "mine.yaml").settings["model"]["mask_head"] is None


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(FileNotFoundError, match=f"did you mean {NAME}"):
        read_config("mask_rcnn_r50_fnp_1x_coco")


def test_a_file_here_comes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nuclei.yaml").write_text("data: {flip: 0.25}")
    assert read_config("nuclei.yaml").settings == {"data": {"flip": 0.25}}
    assert read_config("nuclei").settings["data"]["flip"] == 0.5


def test_later_parts_override_earlier_ones_and_the_file_overrides_all(tmp_path):
    (tmp_path / "flip.yaml").write_text("data: {flip: 0.25, batch_size: 2}")
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"# Mine\nparts: [{NAME}, sizes/640, flip.yaml]\ndata: {{batch_size: 3}}")
    config = read_config(mine)
    data = config.settings["data"]
    assert (data["short_side"], data["flip"], data["batch_size"], data["workers"]) == (640, 0.25, 3, 4)
    assert "parts" not in config.settings
    assert config.info.parts == (NAME, "sizes/640", "flip.yaml")
    assert (config.info.name, config.info.title) == ("mine", "Mine")
    assert config.files[-2:] == (tmp_path / "flip.yaml", mine)


def test_mappings_are_combined_and_other_values_replaced():
    assert combine({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3], "d": None}}) == {"a": {"b": 1, "c": [3], "d": None}}
    assert combine({"a": {"b": 1}}, {"a": None}) == {"a": None}
    assert combine({"a": None}, {"a": {"b": 1}}) == {"a": {"b": 1}}


def test_another_class_brings_its_own_arguments():
    csv = {"class_path": "CSVLogger", "init_args": {"flush_logs_every_n_steps": 1}}
    other = {"class_path": "MLFlowLogger", "init_args": {"run_name": "x"}}
    assert combine({"logger": csv}, {"logger": other}) == {"logger": other}
    assert combine({"logger": csv}, {"logger": {"init_args": {"name": "x"}}})["logger"]["class_path"] == "CSVLogger"


def test_combining_changes_neither():
    settings, over = {"a": {"b": 1}}, {"a": {"c": 2}}
    combine(settings, over)
    assert (settings, over) == ({"a": {"b": 1}}, {"a": {"c": 2}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parts: [mine.yaml]", "config mine is a part of itself"),
        ("parts: [mask_rcnn_r50_fnp_1x_coco]", f"mine.yaml: no config .*did you mean {NAME}"),
        ("parts: base/mask_rcnn", "mine.yaml: parts: must be a list"),
        ("parts: [1]", "mine.yaml: parts: must be a list"),
        ("[1, 2]", "mine.yaml: must be a mapping"),
        ("a: [1", "mine.yaml: not valid YAML"),
        ("published: {box_ap: high, source: x}", "mine.yaml: published: needs box_ap and mask_ap as numbers"),
        ("published: {box_ap: 1}", "source as text"),
        ("published: 40", "mine.yaml: published: must be a mapping"),
    ],
)
def test_a_wrong_config_is_one_line_that_names_the_file(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises((DocumentError, FileNotFoundError), match=message) as raised:
        read_config(tmp_path / "mine.yaml")
    assert "\n" not in str(raised.value)


def test_parts_of_parts_end_somewhere(tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.yaml").write_text(f"parts: [{number + 1}.yaml]")
    (tmp_path / "12.yaml").write_text("data: {flip: 0}")
    with pytest.raises(DocumentError, match=r"9\.yaml: parts are nested more than 8 deep"):
        read_config(tmp_path / "0.yaml")
    assert read_config(tmp_path / "5.yaml").settings == {"data": {"flip": 0}}


def test_an_empty_file_has_no_settings(tmp_path):
    (tmp_path / "mine.yaml").write_text("# nothing\n")
    assert read_config(tmp_path / "mine.yaml").settings == {}


def test_the_listed_configs_say_what_they_are_made_of_and_who_published_the_ap():
    (found,) = list_configs("*mask_rcnn_r101_fpn_3x_coco")
    assert found.parts == ("base/mask_rcnn", "backbones/r101", "schedules/3x", "data/coco")
    assert (found.box_ap, found.mask_ap) == (42.9, 38.6)
    assert "detectron2" in str(found.source)
    assert [config.name for config in list_configs()] == names_of_configs()
    assert list_configs("sizes/640")[0].title.startswith("Images with a short side of 640")


def test_written_settings_are_read_as_the_same():
    for name in names_of_configs():
        settings = read_config(name).settings
        assert load_yaml(write_settings(settings)) == settings


def test_reading_a_config_does_not_import_torch():
    line = f"import sys; from detection.engine.configs import *; read_config('{NAME}'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr

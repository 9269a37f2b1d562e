"""`rcnn configs` lists the parts of each config, and shows the settings of all parts together."""

import json
import subprocess
import sys

import yaml

from detection.commands.main import main
from detection.engine.configs import load_yaml, read_config

NAME = "mask_rcnn_r101_fpn_3x_coco"


def test_the_list_has_parts_published_ap_and_its_source(capsys):
    assert main(["configs", "list", "*r101*"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "not measured with this toolkit" in head
    (line,) = (line for line in lines if line.startswith(f"{NAME} "))
    assert line.split()[1:3] == ["42.9", "38.6"]
    assert "base/mask_rcnn + backbones/r101 + schedules/3x + data/coco" in line
    assert "detectron2 MODEL_ZOO.md" in line
    assert any(line.startswith("backbones/r101 ") and line.endswith("ResNet-101") for line in lines)


def test_the_list_as_json(capsys):
    assert main(["configs", "list", NAME, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["parts"] == ["base/mask_rcnn", "backbones/r101", "schedules/3x", "data/coco"]
    assert (row["box_ap"], row["mask_ap"]) == (42.9, 38.6)


def test_a_pattern_without_a_match_is_an_error(capsys):
    assert main(["configs", "list", "no_such*"]) == 2
    assert capsys.readouterr().err.startswith("error: no config matches no_such*")


def test_what_is_shown_can_be_copied_and_used(tmp_path, capsys):
    assert main(["configs", "show", NAME]) == 0
    shown = capsys.readouterr().out
    assert load_yaml(shown) == read_config(NAME).settings
    assert shown.startswith(f"# {NAME} = base/mask_rcnn + backbones/r101")
    assert "# Box AP 42.9, mask AP 38.6 (detectron2" in shown
    assert "not measured with this toolkit" in shown
    mine = tmp_path / "mine.yaml"
    mine.write_text(shown)
    assert read_config(mine).settings == read_config(NAME).settings


def test_a_file_without_parts_is_shown_as_it_is_with_its_comments(capsys):
    assert main(["configs", "show", "nuclei"]) == 0
    assert "# nuclei have 8 to 100 pixels" in capsys.readouterr().out


def test_published_text_cannot_become_settings(tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text('published: {box_ap: 1.0, source: "x\\nmodel: {}"}')
    assert main(["configs", "show", str(mine)]) == 0
    assert load_yaml(capsys.readouterr().out) in (None, {})


def test_what_is_shown_as_json(tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"parts": [NAME, "sizes/640"]}))
    assert main(["configs", "show", str(mine), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["parts"] == [NAME, "sizes/640"]
    assert shown["settings"]["data"]["short_side"] == 640


def test_listing_and_showing_import_no_torch():
    for words in (["list"], ["show", NAME], ["--help"]):
        code = f"import sys; from detection.commands.main import main; main(['configs', *{words}])"
        code = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); {code}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.stderr == "False\n", (words, done.stderr)

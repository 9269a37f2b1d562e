"""``~`` in every path setting: the command line, configs and Python."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from backbones.pretrained import read_weights
from detection.checkpoint import read_checkpoint
from detection.cli import main
from detection.coco.annotations import load_annotations
from detection.data.dataset import CocoDataset
from detection.engine.datamodule import CocoDataModule, Split
from detection.home import command_line, with_home
from detection.shapes import write_shapes
from tests.detection.engine.conftest import TINY
from tests.support.commands import convert


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with a small data set in ``~/shapes``; the working folder is another."""
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_shapes(tmp_path / "home" / "shapes", train=4, val=2, size=(64, 96))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("~/a", "HOME/a"),
        ("--x=~/a b", "--x=HOME/a b"),
        ("--data.root=~/a", "--data.root=HOME/a"),
        ("~", "~"),  # YAML's null
        ("a~/b", "a~/b"),
        ("x=~/a", "x=~/a"),
        ("~nobody-has-this-name/a", "~nobody-has-this-name/a"),
        (Path("~/a"), Path("HOME/a")),
        (["~/a", 3, None], ["HOME/a", 3, None]),
        ({"k": ["~/a"]}, {"k": ["HOME/a"]}),
    ],
)
def test_home_is_replaced_where_a_path_begins(monkeypatch, value, expected):
    monkeypatch.setenv("HOME", "HOME")
    monkeypatch.setenv("USERPROFILE", "HOME")
    assert with_home(value) == expected


def test_a_program_reads_its_own_arguments(monkeypatch):
    monkeypatch.setenv("HOME", "HOME")
    monkeypatch.setattr("sys.argv", ["program", "~/a"])
    assert command_line(None) == ["HOME/a"]
    assert command_line(("~/b",)) == ["HOME/b"]


@pytest.mark.slow
def test_a_run_with_home_in_every_setting(home, monkeypatch):
    torch.save({}, home / "nothing.pt")
    config = json.loads(json.dumps(TINY))
    config["data"]["root"] = "~/shapes"
    config["data"]["val"]["images"] = "~/shapes/val"
    config["data"]["val"]["annotations"] = "~/shapes/annotations/instances_val.json"
    config["run"] |= {"folder": "~/runs/one", "pictures": 0}
    config["trainer"]["default_root_dir"] = "~/lightning"
    (home / "tiny.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "~/tiny.yaml"]) == 0
    assert (home / "runs" / "one" / "checkpoints" / "last.ckpt").is_file()
    assert main(["fit", "--config=~/tiny.yaml", "--resume", "auto", "--model.schedule.length", "2"]) == 0
    arguments = ["validate", "--config", "~/tiny.yaml", "--ckpt_path", "~/runs/one/checkpoints/last.ckpt"]
    assert main([*arguments, "--run.folder=~/runs/two"]) == 0
    assert not list(Path.cwd().iterdir())
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["one", "two"]


def test_home_in_python(home):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, home / "a.pt")
    assert set(read_weights("~/a.pt")) == {"a"}
    assert set(read_checkpoint("~/a.pt")) == {"state_dict"}
    annotations = load_annotations("~/shapes/annotations/instances_val.json")
    assert CocoDataset(annotations, "~/shapes/val").path(0).is_file()
    data = CocoDataModule("~/shapes", val=Split("val", "~/shapes/annotations/instances_val.json"))
    assert len(data.open("val")) == 2


def test_home_in_a_tool(home):
    convert(["coco2yolo", "~/shapes/annotations/instances_val.json", "~/labels"])
    assert list((home / "labels").rglob("*.txt"))
    assert not list(Path.cwd().iterdir())

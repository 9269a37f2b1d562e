"""Command lines of the first versions still work, and a message names the new spelling if there is one."""

import shlex

import pytest

from detection.commands import train
from detection.commands.main import main, parse, parser_of
from detection.commands.settings import evaluation_settings
from detection.shapes import write_shapes

LINES = (
    "backbones list resnet",
    "backbones show resnet50 --size 800 1333 --threads 2",
    "backbones benchmark --names resnet18 --side 320 --batch 1 --rounds 2 --precision bf16 --minutes 2 --threads 2",
    "backbones benchmark --into page.md --resume",
    "backbones gradients --depths 18 --steps 10 --every 5 --seed 0 --batch 2 --lr 0.1 --width 16 --side 32",
    "backbones gradients --pictures 16 --output residual",
    "browse --config demo --data.root data --output browse --split val --number 4 --ids 1 2 --views 2",
    "compare old new --annotations a.json --resamplings 10 --output comparison",
    "convert coco2yolo a.json labels --segments --names a b",
    "convert voc2coco VOC a.json --one-based --images images",
    "doctor --config demo --data.root data --decode --html a.html --json a.json --strict",
    "evaluate a.ckpt --annotations a.json --images a --output e --iou-types bbox segm --protocol coco",
    "evaluate a.json --annotations a.json --engine pycocotools --resamplings 0 --pictures 0",
    "evaluate a.ckpt --annotations a.json --images a --size 480 800 --flip --short-sides 400 500 --tile 512",
    "evaluate a.ckpt --annotations a.json --images a --soft-nms 0.5 --refine 1 --batch 2 --workers 0 --precision bf16",
    "export a.ckpt b.ckpt mean.safetensors",
    "plot runs/a runs/b --output curves.png --smooth 3",
    "predict a.ckpt a.jpg b --output p --save pictures json csv --score 0.4 --classes a b --batch 2 --size 480 800",
    "predict a.ckpt a.jpg --tile 512 --flip --short-sides 400 500 --frames 3 --device cpu --verbose",
    "train --config demo --data.root data --model.backbone.name resnet18 --trainer.max_steps 1 --run.folder runs/a",
)
"""Options of the tools, with the present name of each command."""


@pytest.mark.parametrize("line", LINES)
def test_former_options_are_still_read(line):
    name, *words = shlex.split(line)
    module = __import__(f"detection.commands.{name}", fromlist=["run"])
    words = getattr(module, "prepare", list)(words)
    parse(parser_of(name, module), words, settings=getattr(module, "TAKES_SETTINGS", False))


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("train demo --ckpt_path a.ckpt", "--ckpt_path is --resume of rcnn train now; both work"),
        ("train demo --init-from a.ckpt", "--init-from is --weights of rcnn train now; both work"),
        ("train demo --model.weights=a.ckpt", "--model.weights is --weights of rcnn train now; both work"),
        ("train demo --run.folder runs/a", "--run.folder is --output of rcnn train now; both work"),
        ("validate --config demo --ckpt_path a.ckpt", "--ckpt_path is MODEL of rcnn validate now; both work"),
        ("test --config demo --run.folder runs/a", "--run.folder is --output of rcnn test now; both work"),
    ],
)
def test_former_settings_are_passed_on_with_a_note(line, note, capsys, monkeypatch):
    name, *words = shlex.split(line)
    options = parse(parser_of(name), words, settings=True)
    options.debug = False
    split = {"validate": "val"}.get(name, name)
    given = train.settings(options) if name == "train" else evaluation_settings(options, split)
    assert capsys.readouterr().err == f"note: {note}\n"
    old, _, value = words[-1].partition("=") if "=" in words[-1] else (words[-2], "", words[-1])
    assert f"{old}={value}" in given or given[given.index(old) + 1] == value
    monkeypatch.setenv("LOCAL_RANK", "1")  # another process of the same training prints nothing
    train.settings(options) if name == "train" else evaluation_settings(options, split)
    assert capsys.readouterr().err == ""


def test_a_former_conversion_says_the_new_line(tmp_path, capsys):
    data = write_shapes(tmp_path / "data", train=2, val=1, size=64)
    source = data / "annotations" / "instances_train.json"
    assert main(["convert", "coco2yolo", str(source), str(tmp_path / "old")]) == 0
    assert "note: rcnn convert coco2yolo is rcnn convert SOURCE TARGET --from coco --to yolo now" in (
        capsys.readouterr().err
    )
    assert main(["convert", str(source), str(tmp_path / "new"), "--from", "coco", "--to", "yolo"]) == 0
    assert "note:" not in capsys.readouterr().err
    old, new = ({p.name: p.read_text() for p in (tmp_path / name).rglob("*.txt")} for name in ("old", "new"))
    assert old == new
    assert old

"""Every ``rcnn`` line of the README, the how-to pages and the tutorials runs, on small data and with small networks.

A line is changed as little as possible: other places of the data, a network of the same kind instead of a published
one, and options at its end that make a training small. ``tests/test_readme.py`` checks the lines as they are.
"""

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from backbones import BackboneConfig
from detection import keypoint_rcnn, mask_rcnn, pointrend, retinanet
from detection.commands.main import main
from detection.shapes import CATEGORIES, write_shapes
from tests.support.documents import command_lines
from tests.support.labelled import write_digits
from tests.support.panoptic import write_panoptic

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *("README.md", "docs/tutorials/own-data.md", "docs/tutorials/quickstart.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "how-to").glob("*.md")),
]
LINES = command_lines("\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES))

ELSEWHERE = {
    "runs/panoptic": "tests/detection/engine/test_panoptic.py runs it",
    "rcnn demo": "test_wheel.py runs it",
    "--find-lr": "tests/detection/engine/test_find_rate.py runs it",
    "rcnn backbones convert": "tests/detection/backbone_tool/test_weights.py runs it",
    "rcnn serve": "tests/detection/serve/test_load.py runs it",
    "--trainer.devices 8": "test_processes.py runs several processes",
    "--nproc-per-node": "test_processes.py runs several processes",
    "--trainer.strategy fsdp": "test_sharded.py runs it",
}
"""Parts of lines that other tests run, as they take long or need more than one process."""

SMALL = {
    "--trainer.accelerator": "cpu",
    "--trainer.precision": "32-true",
    "--trainer.limit_train_batches": "2",
    "--trainer.max_steps": "2",  # the length of some schedules is a number of steps
    "--trainer.limit_val_batches": "1",
    "--trainer.num_sanity_val_steps": "0",
    "--data.short_side": "64",
    "--data.long_side": "96",
    "--data.workers": "0",
    "--data.batch_size": "2",
    "--model.backbone.weights": "null",
}
"""Settings at the end of each training, unless the line has its own."""

NETWORK = {
    "--model.backbone.name": "resnet10",
    "--model.backbone.width": "16",
    "--model.backbone.norm": "group",
    "--model.backbone.freeze": "0",
    "--model.fpn.channels": "16",
}
"""A small network, for a line that neither names a backbone nor starts from a detector."""

OTHER_NETWORK = {"--model.backbone.norm": "batch", "--model.backbone.freeze": "0"}
"""For a line that names a backbone: without weights, it must learn as a whole."""

CLASSIFIER = {
    **{name: value for name, value in SMALL.items() if name.startswith("--trainer")},
    "--data.size": "32",
    "--data.resize": "32",
    "--data.workers": "0",
    "--data.batch_size": "2",
    "--model.classifier.name": "resnet10",
    "--model.classifier.width": "16",
    "--model.classifier.weights": "null",
}
"""The same for a classifier."""

OWN = {"--batch": "--data.batch_size", "--size": "--data.short_side"}
"""Options of a line, and the settings above that they replace."""

INSTEAD = (
    (r"\w+:retinanet\w+", "retinanet.safetensors"),
    (r"\w+:keypoint\w+", "keypoints.safetensors"),
    (r"\w+:pointrend\w+", "points.safetensors"),
    (r"(?:detectron2|mmdetection|torchvision):[\w-]+", "detector.safetensors"),
    (
        r"/data/coco\b|--data nuclei\b",
        lambda found: found[0].replace("/data/coco", "my_data").replace("nuclei", "my_data"),
    ),
    (r"--data my_data(?= .*in_channels 6)", "--data bands"),
    (r"--data.root my_data", "--data.root apart"),
    (r"convert my_data(?= .*--from yolo)", "convert yolo_data"),
    (r"split my_data", "split unsplit"),
    (r"exported(?= .*--trust-code)", "exported_program"),
    (r"--epochs 24", "--epochs 1"),
    (r"\[640, 720, 800\]", "[64, 80]"),
    (r"\[800, 800\]", "[96, 96]"),
    (
        r"_lsj_100ep_coco",  # its steps have 64 images with 512 RoIs each
        "_lsj_100ep_coco --data.jitter '{scale: [0.1, 2.0], size: [96, 96]}' --model.box_head.samples 16"
        " --model.schedule.reference_batch 2",
    ),
    (r" camera:0", ""),
    (r"--tile 1024", "--tile 64"),
    (r"--classes nucleus", "--classes star"),
)
"""Patterns of a line, and what stands there instead, in this order."""


def changed(line: str) -> list[str]:
    """Return the words of a line for this small world."""
    for pattern, instead in INSTEAD:
        line = re.sub(pattern, instead, line)
    words = shlex.split(line)
    if words[1] == "train":
        given = {word.split("=")[0] for word in words}
        network = {} if "--weights" in given else OTHER_NETWORK if "--model.backbone.name" in given else NETWORK
        settings = SMALL | network
        settings = CLASSIFIER if words[2].startswith("classify_") else settings
        replaced = {OWN.get(name, name) for name in given}
        words += [part for pair in settings.items() if pair[0] not in replaced for part in pair]
    return words


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with what the lines name: data sets, images, runs, models and evaluations."""
    folder = tmp_path_factory.mktemp("world")
    data = write_shapes(folder / "my_data", train=6, val=2, size=(64, 96), keypoints=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        other_data(data)
        images(data)
        models()
        (folder / "path/to").mkdir(parents=True, exist_ok=True)
        (folder / "path/to/my.yaml").write_text("data: {flip: 0.25}\n")
        (folder / "my_lab").mkdir()
        (folder / "my_lab/nets.py").write_text(
            "from backbones.resnet import VARIANTS, ResNet\n\n\n"
            "def MyNet():\n    return ResNet(VARIANTS['resnet18'], width=8)\n"
        )
        run("rcnn train --data my_data --output runs/mine --epochs 1")
        run("rcnn train classify_r18 --data flowers --output runs/flowers --epochs 1")
        run("rcnn train classify_r18 --data my_data --output runs/crops --epochs 1")
        run("rcnn train classify_multi_label --data tags.csv --output runs/tags --epochs 1")
        shutil.copytree("runs/flowers", "runs/longer")
        for name in ("before", "after"):
            run(f"rcnn evaluate runs/flowers --data flowers --output {name}")
        for name in ("runs/a", "runs/b", "runs/first", "runs/second", "demo/run"):
            shutil.copytree("runs/mine", name)
        shutil.copy("runs/mine/checkpoints/best.ckpt", "best.ckpt")
        run("rcnn evaluate runs/first --data my_data --set-thresholds best-f1")
        run("rcnn split my_data --output my_split --val 0.2 --test 0.1")
        if find_spec("onnxruntime"):
            run("rcnn export runs/mine --format onnx --output exported")
            run("rcnn export runs/flowers --format onnx --output exported_flowers")
        run("rcnn export runs/mine --format torch --output exported_program")
        for name in ("evaluation_a", "evaluation_b"):
            run(f"rcnn evaluate runs/mine --data my_data --output {name}")
        for kind in ("bbox", "segm"):
            shutil.copy(f"evaluation_a/results_{kind}.json", f"results_{kind}.json")
    return folder


def other_data(data: Path) -> None:
    """Write the same data in other forms."""
    shutil.copytree(data, "demo/data")
    shutil.copytree(data, "unsplit")
    shutil.rmtree("unsplit/val")
    Path("unsplit/annotations/instances_val.json").unlink()
    for split in ("train", "val"):
        annotations = data / "annotations" / f"instances_{split}.json"
        shutil.copytree(data / split, Path("apart/images") / split)
        shutil.copy(annotations, f"apart/{split}.json")
    shutil.copytree(data / "val", "val")
    shutil.copy(data / "annotations/instances_val.json", "val.json")
    run("rcnn convert my_data/annotations/instances_train.json yolo_data --to yolo")
    shutil.copytree(data / "train", "yolo_data/images")
    with Path("yolo_data/data.yaml").open("a") as file:
        file.write("train: images\n")
    run("rcnn convert my_data/annotations/instances_train.json VOC2012/Annotations --to voc")
    shutil.copytree(data / "train", "VOC2012/JPEGImages")
    Path("VOC2012/ImageSets/Main").mkdir(parents=True)
    stems = sorted(path.stem for path in (data / "train").iterdir())
    Path("VOC2012/ImageSets/Main/train.txt").write_text("\n".join(stems))
    lvis = json.loads(Path("val.json").read_text())
    for image in lvis["images"]:
        name = image.pop("file_name")
        image |= {"coco_url": f"http://images.example/val2017/{name}"}
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    lvis["categories"] = [category | {"frequency": "f"} for category in lvis["categories"]]
    write_digits(Path("flowers"), 5, classes=3)
    Path("labels.csv").write_text("file,label\n" + "".join(f"flowers/digit{n % 2}/{n}.png,{n % 2}\n" for n in range(5)))
    lines = [f"flowers/digit{n % 3}/{n // 3}.png,digit{n % 3};{'odd' if n % 2 else 'even'}" for n in range(15)]
    Path("tags.csv").write_text("\n".join(["file,label", *lines]))
    write_panoptic(Path("scenes"))
    labels = {name: {"images": name, "labels": f"labels_{name}", "annotations": ""} for name in ("train", "val")}
    scenes = {"root": "scenes", "semantic": "labels", "semantic_classes": "classes.json", **labels}
    Path("path/to").mkdir(parents=True)
    Path("path/to/labels.yaml").write_text(json.dumps({"data": scenes}))
    Path("lvis_v1_val.json").write_text(json.dumps(lvis))
    bands()


def bands() -> None:
    """Write images of six channels and 16 bits, with one box each."""
    for split in ("train", "val"):
        Path("bands", split).mkdir(parents=True)
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
        for number in range(1, 5):
            pixels = np.random.default_rng(number).integers(0, 60_000, (64, 80, 6), dtype=np.uint16)
            np.save(Path("bands", split, f"{number}.npy"), pixels)
            content["images"].append({"id": number, "file_name": f"{number}.npy", "height": 64, "width": 80})
            box = {"bbox": [8, 8, 30, 20], "area": 600, "segmentation": [[8, 8, 38, 8, 38, 28, 8, 28]]}
            content["annotations"].append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, **box})
        Path("bands/annotations").mkdir(exist_ok=True)
        Path("bands/annotations", f"instances_{split}.json").write_text(json.dumps(content))


def images(data: Path) -> None:
    """Write images to predict on, and a film."""
    shutil.copytree(data / "val", "new_images")
    shutil.copytree(data / "val", "photos")
    shutil.copytree(data / "train", "more/deeper")
    image = cv2.imread(str(next((data / "val").glob("*.jpg"))))
    cv2.imwrite("street.jpg", image)
    cv2.imwrite("slide.tif", cv2.resize(image, (160, 128)))
    film = cv2.VideoWriter("film.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 5, (96, 64))
    for shift in range(3):
        film.write(np.roll(cv2.resize(image, (96, 64)), 4 * shift, axis=1))
    film.release()


def models() -> None:
    """Write small detectors instead of the published ones."""
    torch.manual_seed(0)
    backbone = BackboneConfig("resnet10", width=16, norm="group")
    kinds = {"detector": mask_rcnn, "retinanet": retinanet, "keypoints": keypoint_rcnn, "points": pointrend}
    for name, build in kinds.items():
        model = build(backbone, categories=list(CATEGORIES.values()))
        model.test_size = (64, 96)
        model.export(f"{name}.safetensors")


def run(line: str) -> None:
    """Run a line in this process."""
    code = main(changed(line)[1:])
    assert code == 0, line


def clear(words: Sequence[str], folder: Path) -> None:
    """Remove what a command would write, as in the folder of a reader who runs it for the first time."""
    if "--output" in words and "--resume" not in words:
        place = folder / words[words.index("--output") + 1]
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_a_documented_command_runs(words, world, tmp_path, monkeypatch, capsys):
    line = shlex.join(words)
    for part, where in ELSEWHERE.items():
        if part in line:
            pytest.skip(where)
    if "wandb" in words:
        pytest.importorskip("wandb", reason="the extra wandb is not installed")
        monkeypatch.setenv("WANDB_MODE", "offline")
    if {"exported", "exported_flowers"} & {*words} and "torch" not in words and "--trust-code" not in words:
        pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    folder = tmp_path / "folder"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    clear(words, folder)
    code = main(changed(line)[1:])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "was not written" not in told.err
    if "--output" in words:
        assert (folder / words[words.index("--output") + 1]).exists()

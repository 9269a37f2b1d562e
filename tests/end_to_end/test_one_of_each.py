"""One image, one class, one object: no line of any command says "1 images"."""

import json
import re
from contextlib import suppress

import pytest
import yaml

from detection.cli import main as rcnn
from detection.shapes import write_shapes
from tests.robustness.fuzz_checkpoints import TINY
from tests.support.commands import browse, convert, doctor, evaluate, predict

WRONG = re.compile(
    r"(?<![\d.,/-])\b1 (?:(?!(?:of|with|without|in) )[a-z]+ )?(?:images|classes|objects|crowds|"
    r"detections|annotations|boxes|masks|polygons|files|"
    r"frames|steps|batches|epochs|categories|parameters|validations|channels|names|ids|values|entries|are|have|were)\b"
)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One image with one object of the one class, for both splits; small enough to be narrower than a cell."""
    root = write_shapes(tmp_path_factory.mktemp("single"), train=1, val=1, size=(64, 96))
    for split in ("train", "val"):
        path = root / f"annotations/instances_{split}.json"
        content = json.loads(path.read_text())
        content["categories"] = [{"id": 1, "name": "thing"}]
        content["annotations"] = [content["annotations"][0] | {"category_id": 1, "iscrowd": 0, "occluded": 1}]
        path.write_text(json.dumps(content))
    return root


def told(capfd, program, *arguments) -> str:
    """What a program prints, whatever its exit code."""
    with suppress(SystemExit):
        program([str(one) for one in arguments])
    out, err = capfd.readouterr()
    return out + err


def results(root, path):
    """Two detections, of which one is not finite."""
    entry = json.loads((root / "annotations/instances_val.json").read_text())["annotations"][0]
    found = {"image_id": entry["image_id"], "category_id": 1, "bbox": entry["bbox"], "score": 0.9}
    path.write_text(json.dumps([found, found | {"bbox": [1.0, 1.0, -5.0, 5.0]}]))
    return path


def test_tools_speak_of_one_image(single, tmp_path, capfd):
    images, truth = single / "val", single / "annotations/instances_val.json"
    lines = [
        told(capfd, doctor, "--config", "demo", "--data.root", single, "--decode"),
        told(capfd, browse, "--config", "demo", "--data.root", single, "--views", 1, "--output", tmp_path / "browse"),
        told(capfd, evaluate, results(single, tmp_path / "results.json"), "--annotations", truth, "--images", images,
             "--output", tmp_path / "evaluation", "--resamplings", 0),
        told(capfd, convert, "coco2yolo", truth, tmp_path / "yolo"),
        told(capfd, convert, "coco2voc", truth, tmp_path / "voc"),
        told(capfd, convert, "voc2coco", tmp_path / "voc", tmp_path / "again.json", "--images", images),
        (tmp_path / "browse/browse.html").read_text(),
        (tmp_path / "evaluation/report.html").read_text(),
    ]  # fmt: skip
    assert all("1 image" in text for text in lines if "converted" in text or "narrower" in text)
    assert "1 object" in "".join(lines)
    for text in lines:
        assert WRONG.search(text) is None, WRONG.search(text)


@pytest.mark.slow
def test_a_run_speaks_of_one_step(single, tmp_path, capfd):
    config = {**TINY, "data": {**TINY["data"], "root": str(single), "batch_size": 1}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    text = told(capfd, rcnn, "fit", "--config", tmp_path / "tiny.yaml", "--run.folder", run)
    text += told(
        capfd, rcnn, "validate", "--config", tmp_path / "tiny.yaml", "--ckpt_path", run / "checkpoints/last.ckpt"
    )
    text += told(capfd, predict, run, single / "val", "--output", tmp_path / "found", "--score", 0)
    assert "train: 1 image, 1 object, 1 class" in text
    assert "Schedule: 1 step (1.0 epochs) of 1 image" in text
    assert WRONG.search(text) is None, WRONG.search(text)

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones import BackboneConfig
from detection.categories import Categories
from detection.checkpoint import save_model
from detection.evaluation.results import read_results, with_boxes
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.rpn import RPNConfig
from detection.report.compare import compare
from detection.report.run import matching_labels
from detection.structures import IGNORE
from tests.support.commands import evaluate as main

pytest.importorskip("hotcoco", reason="the report is hotcoco's")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Mask R-CNN that knows the classes in another order, and one more."""
    torch.manual_seed(0)
    parts = {
        "backbone": BackboneConfig("resnet10"),
        "fpn": FPNConfig(channels=16),
        "rpn": RPNConfig(AnchorConfig(sizes=((8,), (16,), (32,), (64,), (128,))), proposals_test=20),
        "box_head": BoxHeadConfig(hidden=16, score_threshold=0.0, detections=8),
        "mask_head": MaskHeadConfig(convs=1, channels=8),
    }
    model = build_detector(4, **parts)
    model.categories = Categories(("dog", "fish", "cat", "<bird>"), (1, 2, 3, 4))
    path = tmp_path_factory.mktemp("model") / "tiny.ckpt"
    save_model(model, path)
    return path


def whole(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_result_files(folder, tmp_path, capsys):
    main([str(folder / "results.json"), "--annotations", str(folder / "truth.json"), "--output", str(tmp_path)])
    assert re.search(r"\nbbox:  AP [1-9]\d\.\d  AP50", capsys.readouterr().out)
    report = whole(tmp_path)
    assert report["about"]["images_scored"] == 24
    assert len(report["about"]["annotations_sha256"]) == 64
    with open(tmp_path / "classes_bbox.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["cat", "dog", "<bird>"]
    assert float(rows[0]["AP"]) == report["bbox"]["classes"][0]["AP"]
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_both_engines_and_voc(folder, tmp_path, capsys):
    base = [str(folder / "results.json"), "--annotations", str(folder / "truth.json"), "--output", str(tmp_path)]
    main([*base, "--engine", "pycocotools"])
    slow = capsys.readouterr().out.splitlines()[:2]
    main([*base, "--engine", "hotcoco", "--resamplings", "0"])
    assert capsys.readouterr().out.splitlines()[:2] == slow
    main([*base, "--protocol", "voc"])
    assert re.search(r"AP50 [1-9]\d\.\d", capsys.readouterr().out)


def test_voc_scores_the_boxes_of_masks(shared_data, tmp_path, capsys):
    data = shared_data / "coco_eval_reference"
    masks = data / "instances_val2014_fakesegm100_results.json"
    annotations = str(data / "instances_val2014_100.json")
    main([str(masks), "--annotations", annotations, "--output", str(tmp_path), "--protocol", "voc"])
    told = capsys.readouterr().out
    (tmp_path / "boxes.json").write_text(json.dumps(with_boxes(read_results(masks), masks)))
    main([str(tmp_path / "boxes.json"), "--annotations", annotations, "--output", str(tmp_path), "--protocol", "voc"])
    assert capsys.readouterr().out == told
    assert re.search(r"AP50 [1-9]\d\.\d", told)


def test_published_numbers(shared_data, tmp_path, capsys):
    data = shared_data / "coco_eval_reference"
    files = [str(data / f"instances_val2014_fake{kind}100_results.json") for kind in ("bbox", "segm")]
    annotations = str(data / "instances_val2014_100.json")
    main([*files, "--annotations", annotations, "--output", str(tmp_path), "--resamplings", "0"])
    out = capsys.readouterr().out
    assert "bbox:  AP 50.5  AP50 69.7  AP75 57.3  APs 58.6  APm 51.9  APl 50.1  AR1 38.7" in out
    assert "segm:  AP 32.0  AP50 56.2  AP75 29.9  APs 38.7  APm 31.0  APl 32.7  AR1 26.8" in out


def numbered(truth: dict, results: list[dict], folder: Path) -> str:
    """What tools/predict.py writes: image ids from 1 in the order of the names, which is not that of the ids here."""
    names = sorted(image["file_name"] for image in truth["images"])
    ids = {image["id"]: names.index(image["file_name"]) + 1 for image in truth["images"]}
    images = [{"id": k + 1, "file_name": name} for k, name in enumerate(names)]
    (folder / "images.json").write_text(json.dumps({"images": images}))
    (folder / "found.json").write_text(json.dumps([r | {"image_id": ids[r["image_id"]]} for r in results]))
    return str(folder / "found.json")


def test_image_ids_of_predict_are_matched_by_file_name(folder, truth, results, tmp_path, capsys):
    rest = ["--annotations", str(folder / "truth.json"), "--output", str(tmp_path / "out"), "--resamplings", "0"]
    main([str(folder / "results.json"), *rest])
    of_the_ids = capsys.readouterr().out
    found = numbered(truth, results, tmp_path)
    main([found, *rest])
    told, *others = capsys.readouterr().out.splitlines()
    assert others == of_the_ids.splitlines()
    assert "matched by the file names" in told
    (tmp_path / "results_bbox.json").write_text(json.dumps(results))  # ours, with the ids of the annotations
    main([str(tmp_path / "results_bbox.json"), *rest])
    assert capsys.readouterr().out == of_the_ids
    (tmp_path / "images.json").write_text(json.dumps({"images": truth["images"]}))
    (tmp_path / "found.json").write_text(json.dumps(results))
    main([found, *rest])
    assert capsys.readouterr().out == of_the_ids


def test_image_ids_of_other_files_are_refused(folder, truth, results, tmp_path, capsys):
    found = numbered(truth, results, tmp_path)
    images = json.loads((tmp_path / "images.json").read_text())
    images["images"][0]["file_name"] = "elsewhere.png"
    (tmp_path / "images.json").write_text(json.dumps(images))
    with pytest.raises(SystemExit):
        main([found, "--annotations", str(folder / "truth.json"), "--output", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert all(name in told for name in ("images.json", "truth.json", "elsewhere.png"))


@pytest.mark.parametrize("whose", ["images.json", "truth.json"])
def test_a_file_name_that_stands_for_two_images_is_refused(truth, results, tmp_path, capsys, whose):
    found = numbered(truth, results, tmp_path)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    listed = json.loads((tmp_path / whose).read_text())
    used = {r["image_id"] for r in (results if whose == "truth.json" else json.loads(Path(found).read_text()))}
    first, second = [image for image in listed["images"] if image["id"] in used][:2]
    second["file_name"] = first["file_name"]
    (tmp_path / whose).write_text(json.dumps(listed))
    with pytest.raises(SystemExit):
        main([found, "--annotations", str(tmp_path / "truth.json"), "--output", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{whose}: 1 file name occurring twice" in told


def test_two_files_of_one_image_are_refused(folder, results, tmp_path, capsys):
    for name, category in (("cats", 2), ("dogs", 5)):
        (tmp_path / f"{name}.json").write_text(json.dumps([r for r in results if r["category_id"] == category]))
    files = [str(tmp_path / f"{name}.json") for name in ("cats", "dogs")]
    rest = ["--annotations", str(folder / "truth.json"), "--output", str(tmp_path / "out"), "--resamplings", "0"]
    with pytest.raises(SystemExit):
        main([*files, *rest])
    told = capsys.readouterr().err
    assert re.search(r"cats\.json and .*dogs\.json: both have bbox results of image \d+; join", told)
    # Parts that share no image are one evaluation.
    main([str(folder / "results.json"), *rest])
    together = capsys.readouterr().out
    for name, images in (("cats", range(1, 9)), ("dogs", range(9, 25))):
        (tmp_path / f"{name}.json").write_text(json.dumps([r for r in results if r["image_id"] in images]))
    main([*files, *rest])
    assert capsys.readouterr().out == together


def with_masks(results: list[dict]) -> list[dict]:
    """Results that are one mask of 100 pixels."""
    rle = {"size": [120, 160], "counts": [0, 100, 120 * 160 - 100]}
    return [{k: v for k, v in r.items() if k != "bbox"} | {"segmentation": rle} for r in results]


def test_kinds_are_looked_for_in_the_whole_file(folder, results, tmp_path, capsys):
    boxes = results * (1 + 120_000 // len(json.dumps(results)))
    (tmp_path / "both.json").write_text(json.dumps(boxes + with_masks(results)))
    rest = ["--annotations", str(folder / "truth.json"), "--output", str(tmp_path / "out"), "--engine", "pycocotools"]
    main([str(tmp_path / "both.json"), *rest])
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[1:3]] == ["bbox", "segm"]


def test_nothing_of_an_earlier_evaluation_stays(folder, results, tmp_path):
    rest = ["--annotations", str(folder / "truth.json"), "--output", str(tmp_path / "out"), "--resamplings", "0"]
    (tmp_path / "masks.json").write_text(json.dumps(with_masks(results)))
    main([str(folder / "results.json"), str(tmp_path / "masks.json"), *rest])
    (tmp_path / "out" / "mine.txt").write_text("kept")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"results_segm.json", "classes_segm.csv", "report.html"} < names
    # One of its own results, scored again: the detections stay, all of them.
    main([str(tmp_path / "out" / "results_bbox.json"), *rest])
    assert {path.name for path in (tmp_path / "out").iterdir()} == names - {"classes_segm.csv", "images_segm.csv"}
    main([str(folder / "results.json"), *rest, "--protocol", "voc"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mine.txt", "results_bbox.json"}


def test_masks_alone_are_scored_as_boxes_by_their_boxes(shared_data, tmp_path, capsys):
    data = shared_data / "coco_eval_reference"
    masks, annotations = data / "instances_val2014_fakesegm100_results.json", data / "instances_val2014_100.json"
    rest = ["--annotations", str(annotations), "--output", str(tmp_path), "--resamplings", "0", "--iou-types", "bbox"]
    main([str(masks), *rest])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        judge = COCOeval(truth, truth.loadRes(str(masks)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("bbox:"))
    told = [float(number) for number in row.split()[2::2]]  # in percent
    # Not those by size, for which pycocotools takes the mask's area.
    assert [told[k] for k in (0, 1, 2, 6, 7, 8)] == [round(100 * float(judge.stats[k]), 1) for k in (0, 1, 2, 6, 7, 8)]


def test_boxes_alone_are_not_scored_as_masks(folder, tmp_path, capsys):
    arguments = ["--annotations", str(folder / "truth.json"), "--output", str(tmp_path), "--iou-types", "segm"]
    with pytest.raises(SystemExit):
        main([str(folder / "results.json"), *arguments])
    assert "results.json: no result has the key 'segmentation'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_in_one_process_and_in_two(checkpoint, folder, tmp_path):
    arguments = [str(checkpoint), "--annotations", str(folder / "truth.json"), "--images", str(folder / "images")]
    arguments += ["--size", "64", "96", "--workers", "0", "--batch", "5", "--device", "cpu", "--pictures", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    tool = str(Path(__file__).parents[3] / "tools" / "evaluate.py")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, start in (("one", []), ("two", launch)):
        command = [sys.executable, *start, tool, *arguments, "--output", str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    for kind in ("bbox", "segm"):
        one, two = ((tmp_path / n / f"results_{kind}.json").read_bytes() for n in ("one", "two"))
        assert one == two
        assert whole(tmp_path / "one")[kind] == whole(tmp_path / "two")[kind]
    assert {r["category_id"] for r in json.loads((tmp_path / "one" / "results_bbox.json").read_text())} <= {2, 5, 9}


def test_labels_are_matched_by_name(capsys):
    model, data = Categories(("dog", "fish", "cat"), (1, 2, 3)), Categories(("cat", "dog"), (7, 8))
    assert matching_labels(model, data).tolist() == [1, IGNORE, 0, IGNORE]
    assert "fish" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no class in common"):
        matching_labels(Categories(("fish",), (1,)), data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results.json", "--annotations", "nowhere.json"], "no such annotation file"),
        (["model.ckpt", "--annotations", "truth.json"], "--images"),
        (["model.ckpt", "--annotations", "truth.json", "--images", "images"], "model.ckpt"),
        (["results.json", "--annotations", "truth.json", "--protocol", "lvis"], "frequency"),
        (["truth.json", "--annotations", "truth.json"], "is an annotation file; give a result file"),
        (["results.json", "--annotations", "truth.json", "--protocol", "voc", "--iou-types", "segm"], "--protocol voc"),
        (["results.json", "--annotations", "truth.json", "--resamplings", "-1"], "--resamplings -1: must be at least"),
        (["results.json", "--annotations", "truth.json", "--batch", "0"], "--batch 0: must be at least 1"),
        (
            ["model.ckpt", "--annotations", "truth.json", "--tile", "64", "--flip"],
            "--tile and --flip cannot be combined",
        ),
        (["results.json", "--annotations", "truth.json", "--soft-nms", "0.5"], "--soft-nms is for a model"),
        (["results.json", "--annotations", "truth.json", "--max-dets", "5"], "5 must be above 10"),
        (
            ["results.json", "--annotations", "truth.json", "--protocol", "voc", "--max-dets", "300"],
            "--max-dets is for",
        ),
        (["none.ckpt", "--annotations", "truth.json", "--images", "nowhere"], "nowhere: no such folder of images"),
        (["results.json", "--annotations", "truth.json", "--images", "nowhere"], "nowhere: no such folder of images"),
    ],
)
def test_mistakes_are_told_in_a_line(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder)
    (tmp_path / "report.json").touch()
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--output", str(tmp_path)])
    assert stop.value.code == 2
    assert (tmp_path / "report.json").exists()  # an earlier report stays
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("names", [["7.png"], [f"{i}.png" for i in range(1, 25)]])
def test_missing_images_are_counted_before_the_model_is_loaded(folder, tmp_path, capsys, names):
    shutil.copytree(folder / "images", tmp_path / "images")
    for name in names:
        (tmp_path / "images" / name).unlink()
    with pytest.raises(SystemExit) as stop:
        main(["none.ckpt", "--annotations", str(folder / "truth.json"), "--images", str(tmp_path / "images")])
    told = capsys.readouterr().err
    assert stop.value.code == 2
    assert f"{len(names)} of 24 images are missing, first {tmp_path / 'images' / names[0]}" in told
    assert "--images" in told
    assert told.count("\n") == 1


def test_the_limit_of_detections_is_said_and_kept(folder, results, tmp_path, capsys):
    many = [results[0] | {"score": k / 1000} for k in range(150)]
    (tmp_path / "many.json").write_text(json.dumps(many))
    base = [str(tmp_path / "many.json"), "--annotations", str(folder / "truth.json"), "--resamplings", "0", "--output"]
    main([*base, str(tmp_path / "a")])
    told = capsys.readouterr().out
    assert "percent, detections of result files, at most 100 detections of a class in an image" in told
    assert "1 image has more than 100 detections of one class (at most 150)" in told
    main([*base, str(tmp_path / "b"), "--max-dets", "150"])
    told = capsys.readouterr().out
    assert "AR150" in told
    assert "more than" not in told
    report = whole(tmp_path / "b")
    assert report["about"]["max_detections"] == report["bbox"]["max_detections"] == 150
    assert "AR150" in report["bbox"]["numbers"]
    with pytest.raises(ValueError, match=r"other limits of detections .*: 100 and 150"):
        compare(tmp_path / "a", tmp_path / "b")
    names = [d.name for d in compare(tmp_path / "b", tmp_path / "b", resamplings=0)["bbox/numbers"]]
    assert names[6:9] == ["AR1", "AR10", "AR150"]

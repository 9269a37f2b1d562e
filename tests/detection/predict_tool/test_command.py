import copy
import csv
import json
from typing import ClassVar

import cv2
import numpy as np
import pytest

from detection.predict_tool import command
from detection.predict_tool.command import main


@pytest.fixture
def folder(tmp_path, pixels, monkeypatch, tiny_model):
    own = copy.deepcopy(tiny_model)  # a GPU, where there is one, takes it
    monkeypatch.setattr(command, "load_model", lambda source, trust_code=False: own)
    images = tmp_path / "images"
    images.mkdir()
    for k in range(3):
        cv2.imwrite(str(images / f"{k} ü.png"), np.roll(pixels, 7 * k, axis=1))
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (80, 50))
    for k in range(3):
        writer.write(np.roll(pixels, 5 * k, axis=1))
    writer.release()
    return tmp_path


def run(folder, *arguments):
    main(["any.ckpt", *map(str, arguments), "--output", str(folder / "out"), "--score", "0"])
    return folder / "out"


def test_everything_at_once(folder):
    out = run(folder, folder / "images", folder / "film.avi", "--save", "pictures", "json", "csv", "masks")
    assert sorted(p.name for p in out.glob("*.jpg")) == [f"{k} ü.jpg" for k in range(3)]
    results, images = (json.loads((out / name).read_text()) for name in ("results.json", "images.json"))
    assert len(images["images"]) == 6
    assert len(results) == 6 * 5
    assert {r["category_id"] for r in results} <= {3, 9}
    with open(out / "results.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results)
    assert {row["frame"] for row in rows} == {"", "0", "1", "2"}
    masks = cv2.imread(str(out / "0 ü.masks.png"), cv2.IMREAD_UNCHANGED)
    assert masks.dtype == np.uint16
    assert masks.shape == (50, 80)
    assert len(list(cv2.VideoCapture(str(out / "film.mp4")).read())) == 2


def test_frames_are_counted(folder, capsys):
    run(folder, folder / "film.avi", "--save", "json")
    assert capsys.readouterr().out.startswith(f"3 frames: {folder / 'out'}")
    run(folder, folder / "images", folder / "film.avi", "--save", "json", "--frames", "2")
    assert capsys.readouterr().out.startswith(f"3 images, 2 frames: {folder / 'out'}")


def test_the_results_score_as_any_other(folder):
    """A results file beside its images file goes straight into the evaluation."""
    from detection.evaluation.coco import CocoEvaluator
    from detection.evaluation.results import read_results

    out = run(folder, folder / "images", "--save", "json")
    evaluator = CocoEvaluator(out / "images.json", ["bbox", "segm"], image_ids="all")
    evaluator.add_results(read_results(out / "results.json"))
    assert len(evaluator.results("segm")) == 15


def test_only_some_classes(folder):
    out = run(folder, folder / "images", "--classes", "dog", "--save", "json")
    assert {r["category_id"] for r in json.loads((out / "results.json").read_text())} <= {9}
    with pytest.raises(SystemExit) as stop:
        run(folder, folder / "images", "--classes", "horse")
    assert stop.value.code == 2


def test_files_that_are_left_out_are_counted(folder, capsys):
    cv2.imwrite(str(folder / "images" / "a.gif"), np.zeros((8, 8, 3), np.uint8))
    for name in ("b.txt", "c.txt"):
        (folder / "images" / name).touch()
    run(folder, folder / "images")
    assert "4 images" in (told := capsys.readouterr().out)
    assert f"2 other files were left out, as {folder / 'images' / 'b.txt'}" in told


def test_a_broken_image_is_named_at_the_end(folder, capsys):
    (folder / "images" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stop:
        run(folder, folder / "images")
    assert stop.value.code == 1
    assert "broken.jpg" in capsys.readouterr().err
    assert len(list((folder / "out").glob("*.jpg"))) == 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--score", "50"], "--score 50: must be from 0 to 1"),
        (["--score", "nan"], "--score nan: must be from 0 to 1"),
        (["--size", "0", "0"], "--size 0 0: must be at least 1"),
        (["--short-sides", "64", "0"], "--short-sides 64 0: must be at least 1"),
        (["--tile", "0"], "--tile 0: must be at least 32"),
        (["--batch", "0"], "--batch 0: must be at least 1"),
        (["--frames", "0"], "--frames 0: must be at least 1"),
        (["--tile", "64", "--flip"], "--tile and --flip do not go together; leave one of them out"),
    ],
)
def test_options_that_mean_nothing_are_refused(folder, capsys, option, message):
    with pytest.raises(SystemExit) as stop:
        main(["any.ckpt", str(folder / "images"), "--output", str(folder / "out"), *option])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"predict: {message}\n"


@pytest.mark.parametrize(
    "how",
    [
        ["--flip"],
        ["--short-sides", "48", "64"],
        ["--tile", "48"],
        ["--size", "48", "96"],
        ["--size", "48", "96", "--tile", "48"],
    ],
)
def test_other_ways_to_look(folder, how):
    out = run(folder, folder / "images" / "0 ü.png", "--save", "json", *how)
    assert json.loads((out / "results.json").read_text())


class Camera:
    """Three frames, and then none."""

    opened: ClassVar[list] = []

    def __init__(self, source):
        self.opened.append(source)
        self.frames = [np.full((50, 80, 3), 60 * k, np.uint8) for k in range(3)]

    def isOpened(self):
        return True

    def read(self):
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def release(self):
        self.opened.append("released")


def test_a_camera(folder, monkeypatch):
    monkeypatch.setattr("detection.predict_tool.sources.cv2.VideoCapture", Camera)
    out = run(folder, "camera:2", "--save", "pictures", "json", "csv")
    assert Camera.opened == [2, "released"]
    images = json.loads((out / "images.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["camera_2#0", "camera_2#1", "camera_2#2"]
    assert (out / "camera_2.mp4").stat().st_size > 0
    run(folder, "camera:2", "--save", "json", "--frames", "2")
    assert len(json.loads((out / "images.json").read_text())["images"]) == 2
    assert Camera.opened[2:] == [2, "released"]

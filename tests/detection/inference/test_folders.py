import copy
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch

from detection.inference import folders
from tests.support.commands import predict as main


@pytest.fixture
def folder(tmp_path, pixels, monkeypatch, tiny_model):
    own = copy.deepcopy(tiny_model)  # a GPU, where there is one, takes it
    monkeypatch.setattr(folders, "load_detector", lambda source, trust_code=False: own)
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


def test_bfloat16_finds_nearly_the_same(folder, monkeypatch):
    computed = []
    group = folders.predict_group
    monkeypatch.setattr(
        folders, "predict_group", lambda *a: computed.append(torch.is_autocast_enabled("cpu")) or group(*a)
    )
    boxes = []
    for precision in ("fp32", "bf16"):
        out = run(folder, folder / "images", "--save", "json", "--precision", precision, "--device", "cpu")
        results = json.loads((out / "results.json").read_text())
        boxes.append(np.array([one["bbox"] for one in results if one["image_id"] == results[0]["image_id"]]))
    assert computed == [False, True]
    assert boxes[0].shape == boxes[1].shape
    # Those of an untrained detector, in an image of 80 pixels; each has one nearby.
    assert np.abs(boxes[0][:, None] - boxes[1]).max(axis=2).min(axis=1).max() < 4
    assert not np.array_equal(*boxes)


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
    assert f"skipped 2 other files, for example {folder / 'images' / 'b.txt'}" in told


def test_a_broken_image_is_named_at_the_end(folder, capsys):
    (folder / "images" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stop:
        run(folder, folder / "images")
    assert stop.value.code == 3
    assert "broken.jpg" in capsys.readouterr().err
    assert len(list((folder / "out").glob("*.jpg"))) == 3


SCORES = "must be a number from 0 to 1, CLASS=NUMBER such as person=0.6, or model"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--score", "50"], "--score 50: must be a number from 0 to 1, CLASS=NUMBER such as person=0.6, or model"),
        (
            ["--score", "dog=nan"],
            "--score dog=nan: must be a number from 0 to 1, CLASS=NUMBER such as person=0.6, or model",
        ),
        (["--score", "0.5", "dgo=0.3"], "--score: the model has no class dgo; did you mean dog?"),
        (["--classes", "horse", "cat"], "--classes: the model has no class horse; it has cat, dog"),
        (["--size", "0", "0"], "--size 0 0: must be at least 1"),
        (["--short-sides", "64", "0"], "--short-sides 64 0: must be at least 1"),
        (["--tile", "0"], "--tile 0: must be at least 32"),
        (["--batch", "0"], "--batch 0: must be at least 1"),
        (["--frames", "0"], "--frames 0: must be at least 1"),
        (["--tile", "64", "--flip"], "--tile and --flip cannot be combined; remove one of them"),
    ],
)
def test_options_that_mean_nothing_are_refused(folder, capsys, option, message):
    with pytest.raises(SystemExit) as stop:
        main(["any.ckpt", str(folder / "images"), "--output", str(folder / "out"), *option])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


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
    monkeypatch.setattr("detection.inference.sources.cv2.VideoCapture", Camera)
    out = run(folder, "camera:2", "--save", "pictures", "json", "csv")
    assert Camera.opened == [2, "released"]
    images = json.loads((out / "images.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["camera_2#0", "camera_2#1", "camera_2#2"]
    assert (out / "camera_2.mp4").stat().st_size > 0
    run(folder, "camera:2", "--save", "json", "--frames", "2")
    assert len(json.loads((out / "images.json").read_text())["images"]) == 2
    assert Camera.opened[2:] == [2, "released"]


def cut_off(path, kind, claimed=30, share=0.5):
    """A video whose header claims more frames than can be read; returns how many OpenCV reads."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*kind), 10, (80, 50))
    noise = np.random.default_rng(0)
    for _ in range(claimed):
        writer.write(noise.integers(0, 255, (50, 80, 3), np.uint8))
    writer.release()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    capture = cv2.VideoCapture(str(path))
    read = 0
    while capture.read()[0]:
        read += 1
    return read


def test_a_video_that_ends_early_is_told_with_its_own_exit_code(folder, capsys):
    read = cut_off(folder / "cut.avi", "MJPG")
    assert 5 < read < 25
    with pytest.raises(SystemExit) as stop:
        run(folder, folder / "images", folder / "cut.avi", folder / "film.avi", "--save", "json")
    assert stop.value.code == 3
    told = capsys.readouterr()
    assert f"3 images, {read + 3} frames" in told.out
    line = f"error: {folder / 'cut.avi'}: {read} of 30 frames could be read; the file is damaged or cut off\n"
    assert told.err.endswith(line)
    assert len(json.loads((folder / "out" / "images.json").read_text())["images"]) == 3 + read + 3


def test_a_video_that_is_looked_at_in_part_is_no_damaged_one(folder, capsys):
    read = cut_off(folder / "cut.avi", "MJPG")
    run(folder, folder / "cut.avi", "--save", "json", "--frames", str(read - 1))
    assert "could be read" not in capsys.readouterr().err


def test_a_video_that_cannot_be_opened_loses_no_results_of_others(folder, capsys):
    (folder / "broken.mp4").write_bytes(b"no film")
    with pytest.raises(SystemExit) as stop:
        run(folder, folder / "images", folder / "broken.mp4", folder / "film.avi", "--save", "json")
    assert stop.value.code == 3
    assert "broken.mp4: cannot be opened as a video" in capsys.readouterr().err
    assert len(json.loads((folder / "out" / "images.json").read_text())["images"]) == 6


def test_masks_of_a_detector_of_boxes_are_rejected_before_work_begins(folder, capsys, monkeypatch):
    import torch

    from detection.models.build import build_detector
    from tests.detection.conftest import BackboneConfig, BoxHeadConfig, FPNConfig

    torch.manual_seed(0)
    boxes_only = build_detector(2, BackboneConfig("resnet10"), FPNConfig(channels=16), None, BoxHeadConfig(hidden=16))
    monkeypatch.setattr(folders, "load_detector", lambda source, trust_code=False: boxes_only)
    with pytest.raises(SystemExit) as stop:
        run(folder, folder / "images", "--save", "pictures", "masks")
    assert stop.value.code == 2
    line = "error: --save masks: any.ckpt predicts only boxes; remove masks\n"
    assert capsys.readouterr().err == line
    assert not (folder / "out").exists()


def test_masks_of_frames_are_written_one_by_one(folder):
    out = run(folder, folder / "film.avi", "--save", "masks")
    assert sorted(path.name for path in (out / "film.masks").iterdir()) == ["000000.png", "000001.png", "000002.png"]


def test_objects_are_counted_by_class_and_image(folder, capsys):
    out = run(folder, folder / "images", "--save", "csv")
    with open(out / "results.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines[0] == f"found {len(rows)} objects in 3 of 3 images:"
    counts = {name: sum(row["class"] == name for row in rows) for name in ("cat", "dog")}
    images = {name: len({row["file"] for row in rows if row["class"] == name}) for name in counts}
    shown = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
    assert [line.split() for line in lines[1:]] == [
        [str(counts[name]), name, "in", str(images[name]), "images"] for name in shown
    ]
    main(["any.ckpt", str(folder / "images"), "--output", str(out), "--score", "1"])
    assert "found no objects in 3 images; a lower --score shows less certain objects" in capsys.readouterr().out


def test_thresholds_by_class(folder):
    out = run(folder, folder / "images", "--save", "json")
    results = json.loads((out / "results.json").read_text())
    cats = [r["score"] for r in results if r["category_id"] == 3]
    middle = sorted(cats)[len(cats) // 2] + 1e-6
    main(["--score", "0", f"cat={middle}", "any.ckpt", str(folder / "images"), "--output", str(out), "--save", "json"])
    kept = json.loads((out / "results.json").read_text())
    assert kept == [r for r in results if r["category_id"] != 3 or r["score"] > middle]
    assert len(kept) < len(results)


def test_across_classes_reaches_the_model(folder):
    run(folder, folder / "images", "--save", "json", "--across-classes")
    assert folders.load_detector("").box_head.config.nms_across_classes


def stopping(number, name):
    """A prediction before which a signal comes, after ``number`` of them went well."""
    plain, calls = getattr(folders, name), []

    def predict(*arguments):
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        calls.append(1)
        return plain(*arguments)

    return predict


def test_after_ctrl_c_the_results_so_far_are_written(folder, capsys, monkeypatch):
    monkeypatch.setattr(folders, "predict_group", stopping(2, "predict_group"))
    with pytest.raises(SystemExit) as stop:
        run(folder, folder / "images", "--batch", "1", "--save", "pictures", "json", "csv")
    assert stop.value.code == 130
    out = folder / "out"
    line = f"error: stopped by SIGINT; images done: 2, with their results in {out}"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert len(list(out.glob("*.jpg"))) == 2
    results, images = (json.loads((out / name).read_text()) for name in ("results.json", "images.json"))
    assert len(images["images"]) == 2
    assert {r["image_id"] for r in results} == {1, 2}
    with open(out / "results.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(results)


def test_after_ctrl_c_a_video_can_be_played(folder, monkeypatch):
    monkeypatch.setattr(folders, "predict_group", stopping(2, "predict_group"))
    with pytest.raises(SystemExit):
        run(folder, folder / "film.avi")
    capture = cv2.VideoCapture(str(folder / "out" / "film.mp4"))
    assert [capture.read()[0] for _ in range(3)] == [True, True, False]


def test_a_signal_whose_error_was_swallowed_ends_the_next_image(tmp_path, tiny_model, pixels, monkeypatch, capsys):
    from detection import save_model
    from detection.engine import startup

    save_model(tiny_model, tmp_path / "best.ckpt")
    for k in range(3):
        cv2.imwrite(str(tmp_path / f"{k}.png"), pixels)
    load = folders.load_detector

    def loading(*given, **named):
        monkeypatch.setattr(startup, "_received", signal.SIGTERM)
        return load(*given, **named)

    monkeypatch.setattr(folders, "load_detector", loading)
    given = [str(tmp_path / "best.ckpt"), *(str(tmp_path / f"{k}.png") for k in range(3))]
    with pytest.raises(SystemExit) as ended:
        main([*given, "--output", str(tmp_path / "out"), "--device", "cpu"])
    assert ended.value.code == 143
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: stopped by SIGTERM")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["importing", "predicting"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_program_with_one_line(tmp_path, tiny_model, pixels, when, number, code):
    from detection import save_model

    save_model(tiny_model, tmp_path / "best.ckpt")
    (tmp_path / "images").mkdir()
    for k in range(400):
        cv2.imwrite(str(tmp_path / "images" / f"{k}.png"), pixels)
    tool, out = Path(__file__).parents[3] / "tools" / "predict.py", tmp_path / "out"
    given = [tmp_path / "best.ckpt", tmp_path / "images", "--output", out, "--device", "cpu"]
    program = [sys.executable, str(tool), *map(str, given)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if when == "importing":
            maps = Path(f"/proc/{process.pid}/maps")
            while maps.exists() and "libtorch" not in maps.read_text():  # it has begun
                time.sleep(0.01)
            time.sleep(0 if maps.exists() else 1)
        else:
            while not list(out.glob("*.jpg")) and process.poll() is None:
                time.sleep(0.01)
        process.send_signal(number)
        _, told = process.communicate(timeout=120)
    assert process.returncode == code
    bar = ("image/s", "?image")
    lines = [line for line in told.splitlines() if line.strip() and not any(part in line for part in bar)]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: stopped by {number.name}")
    assert bool(list(out.glob("*.jpg"))) == (when == "predicting")

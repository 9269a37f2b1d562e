"""Semantic and Panoptic FPN train, resume and go through every command, on data of each kind."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from detection.coco.panoptic import ids_of, read_panoptic
from detection.commands.main import main
from detection.inference import load_model
from detection.inference import predict as predict_image
from detection.run_files import evaluations
from tests.detection.engine.conftest import TINY
from tests.detection.engine.test_signals import goes_on
from tests.support.commands import browse, doctor, predict
from tests.support.panoptic import write_panoptic

HEAD = {"channels": 16, "stuff_area": 20}
SPLITS = {
    name: {
        "images": name,
        "annotations": f"instances_{name}.json",
        "panoptic": f"panoptic_{name}.json",
        "labels": f"panoptic_{name}",
    }
    for name in ("train", "val")
}


def settings(kind: str) -> dict:
    model = {**TINY["model"], "semantic_head": HEAD}
    if kind == "semantic":
        model = {name: part for name, part in model.items() if name not in ("rpn", "box_head", "mask_head")}
    return {**TINY, "model": model}


@pytest.fixture(scope="module", params=["semantic", pytest.param("panoptic", marks=pytest.mark.slow)])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def tiny_config(kind, shapes, tmp_path_factory) -> Path:
    """A config file that all fixtures of the engine's tests take."""
    given = settings(kind)
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(yaml.safe_dump(given | {"data": {"root": str(shapes), **given["data"]}}))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_panoptic(tmp_path_factory.mktemp("data"))


def train(kind: str, folder: Path, output: Path, data: dict, *options: str) -> int:
    given = settings(kind)
    given["data"] = {**given["data"], "root": str(folder), **data}
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(given))
    return main(["fit", "--config", str(path), "--run.folder", str(output), *options])


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3, 5])
def test_what_was_stopped_goes_on_to_the_same_weights(interrupted, run, tmp_path, at):
    goes_on(interrupted, run, tmp_path, at)


def test_losses_and_scores_are_written(trained, kind):
    metrics = evaluations(trained)[-1]
    assert np.isfinite(metrics["val/loss_semantic"])
    assert 0 <= metrics["val/semantic/mIoU"] <= metrics["val/semantic/pixel_accuracy"] <= 1
    assert ("val/panoptic/PQ" in metrics) == ("val/segm/AP" in metrics) == ("val/AP" in metrics) == (kind == "panoptic")
    assert (trained / "checkpoints" / "best.ckpt").is_file()
    assert (trained / "model.safetensors").is_file()
    names = (trained / "val_semantic.csv").read_text().splitlines()
    expected = (
        ["background", "circle", "square", "triangle", "ring", "star"]
        if kind == "semantic"
        else ["things", "background"]
    )
    assert [line.split(",")[1] for line in names[1:]] == expected
    assert "mIoU" in (trained / "summary.md").read_text()


def test_validate_gives_what_training_gave(trained, tmp_path):
    assert main(["validate", str(trained), "--output", str(tmp_path / "val")]) == 0
    before, again = (evaluations(one)[-1] for one in (trained, tmp_path / "val"))
    numbers = {name: value for name, value in before.items() if "semantic" in name or "panoptic" in name}
    assert {name: again[name] for name in numbers} == pytest.approx(numbers, rel=1e-5, nan_ok=True)


def test_checkpoints_know_their_classes(trained, kind):
    model = load_model(trained)
    names = model.semantic_categories.names
    assert names[:2] == (("things", "background") if kind == "panoptic" else ("background", "circle"))
    assert len(model.categories) == (5 if kind == "panoptic" else 6)


def test_predictions_are_label_maps_and_segments(trained, kind, shapes, tmp_path, capsys):
    kinds = ["images", "json", "labels", *(["panoptic", "masks"] if kind == "panoptic" else [])]
    predict([trained, shapes / "val", "--output", tmp_path, "--save", *kinds, "--score", "0.0"])
    model = load_model(trained)
    ids = set(model.semantic_categories.ids)
    pictures = sorted(path.stem.removesuffix(".labels") for path in tmp_path.glob("*.labels.png"))
    assert pictures == sorted(path.stem for path in (shapes / "val").iterdir())
    for name in pictures:
        image = predict_image(model, next((shapes / "val").glob(f"{name}.*")), 0.0)
        labels = cv2.imread(str(tmp_path / f"{name}.labels.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(labels, image.maps.label_png())
        assert set(np.unique(labels).tolist()) <= ids
        assert labels.shape == image.size
        assert sum(image.maps.shares().values()) == pytest.approx(1)
        assert image.plot().shape[2] == 3
    if kind == "panoptic":
        content = json.loads((tmp_path / "panoptic.json").read_text())
        for image, entry in zip(content["images"], content["annotations"], strict=True):
            found = ids_of(cv2.imread(str(tmp_path / entry["file_name"]))[..., ::-1])
            assert found.shape == (image["height"], image["width"])
            areas = {one["id"]: one["area"] for one in entry["segments_info"]}
            numbers, counts = np.unique(found[found > 0], return_counts=True)
            assert areas == dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        file = {**content, "annotations": [{**one, "file_name": "a.png"} for one in content["annotations"]]}
        (tmp_path / "again.json").write_text(json.dumps(file))
        assert len(read_panoptic(tmp_path / "again.json").categories) == 6  # other tools can read it
    else:
        assert "pixels of 4 images" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            predict([trained, shapes / "val", "--output", tmp_path, "--save", "panoptic"])


def test_views_and_torchvisions_layout_say_that_they_do_not_work(trained, shapes, tmp_path):
    model, image = load_model(trained), next((shapes / "val").iterdir())
    for options in ({"flip": True}, {"short_sides": [64, 96]}):
        with pytest.raises(ValueError, match="does not work with a semantic head"):
            predict_image(model, image, **options)
    with pytest.raises(ValueError, match="export it as safetensors"):
        model.export(tmp_path / "model.pth")
    model.export(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert again.semantic_categories == model.semantic_categories
    assert np.array_equal(predict_image(again, image).maps.semantic, predict_image(model, image).maps.semantic)


@pytest.mark.slow
def test_doctor_and_browse_show_maps(tiny_config, kind, tmp_path, capsys):
    doctor(["--config", tiny_config, "--decode"])
    told = capsys.readouterr().out
    assert "Semantic classes, train" in told
    assert ("Anchor coverage" in told) == (kind == "panoptic")
    browse(["--config", tiny_config, "--number", 2, "--views", 1, "--output", tmp_path])
    assert (tmp_path / "browse.html").is_file()


def test_the_doctor_finds_wrong_label_files(tmp_path, capsys):
    folder = write_panoptic(tmp_path / "data")
    (folder / "labels_train" / "001.png").unlink()
    cv2.imwrite(str(folder / "labels_val" / "101.png"), np.full((64, 96), 77, np.uint8))
    cv2.imwrite(str(folder / "labels_val" / "102.png"), np.zeros((10, 10), np.uint8))
    cv2.imwrite(str(folder / "labels_val" / "103.png"), np.zeros((64, 96), np.uint8))
    given = settings("semantic")
    data = {"root": str(folder), "semantic": "labels", "semantic_classes": "classes.json"}
    data |= {name: {"images": name, "annotations": "", "labels": f"labels_{name}"} for name in ("train", "val")}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**given, "data": {**given["data"], **data}}))
    with pytest.raises(SystemExit):
        doctor(["--config", tmp_path / "tiny.yaml"])
    told = capsys.readouterr().out
    assert "1 of 6 label files is missing" in told or "1 of 6 label files are missing" in told
    assert "has the values [77], which are no classes" in told
    assert "is 10 x 10, but its image is 96 x 64" in told
    assert "1 image has no labelled pixel" in told


@pytest.mark.slow
def test_cocos_panoptic_format(kind, folder, tmp_path):
    assert train(kind, folder, tmp_path / "run", {"semantic": "panoptic", **SPLITS}) == 0
    model = load_model(tmp_path / "run")
    assert model.semantic_categories.ids == ((0, 5, 9) if kind == "panoptic" else (1, 5, 7, 9))
    if kind == "semantic":  # the panoptic file lists the images, too
        alone = {
            name: {key: split[key] for key in ("images", "panoptic", "labels")} | {"annotations": ""}
            for name, split in SPLITS.items()
        }
        assert train(kind, folder, tmp_path / "alone", {"semantic": "panoptic", **alone}) == 0
        one, other = (torch.load(tmp_path / name / "checkpoints/last.ckpt")["state_dict"] for name in ("run", "alone"))
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_a_folder_of_label_pngs_needs_no_annotations(folder, tmp_path, capsys):
    data = {"semantic": "labels", "semantic_classes": "classes.json"}
    data |= {name: {"images": name, "annotations": "", "labels": f"labels_{name}"} for name in ("train", "val")}
    assert train("semantic", folder, tmp_path / "run", data) == 0
    assert f"train: 6 images, 4 semantic classes, {folder / 'classes.json'}" in capsys.readouterr().out
    assert load_model(tmp_path / "run").semantic_categories.names == ("cat", "sky", "dog", "road")
    assert np.isfinite(evaluations(tmp_path / "run")[-1]["val/semantic/mIoU"])


def test_missing_label_files_stop_the_run_before_it_begins(folder, tmp_path, capsys):
    data = {"semantic": "labels", "semantic_classes": "classes.json"}
    data |= {name: {"images": name, "annotations": "", "labels": "panoptic_val"} for name in ("train", "val")}
    assert train("semantic", folder, tmp_path / "run", data) != 0
    assert "6 of 6 label files are missing" in capsys.readouterr().err


@pytest.mark.slow
def test_other_stuff_than_in_the_checkpoint_is_rejected(folder, tmp_path, capsys):
    assert train("panoptic", folder, tmp_path / "run", {"semantic": "panoptic", **SPLITS}) == 0
    other = tmp_path / "other"
    other.mkdir()
    for split in ("train", "val"):
        content = json.loads((folder / f"panoptic_{split}.json").read_text())
        content["categories"][1]["name"] = "cloud"
        (other / f"panoptic_{split}.json").write_text(json.dumps(content))
    changed = {name: {**split, "panoptic": str(other / split["panoptic"])} for name, split in SPLITS.items()}
    last = str(tmp_path / "run/checkpoints/last.ckpt")
    assert train("panoptic", folder, tmp_path / "next", {"semantic": "panoptic", **changed}, "--ckpt_path", last) != 0
    assert "cloud" in capsys.readouterr().err

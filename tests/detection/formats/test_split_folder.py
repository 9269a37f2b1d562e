import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.coco.annotations import load_annotations
from detection.engine.datamodule import CocoDataModule, Split
from detection.formats.layout import Part
from detection.formats.recognise import open_data
from detection.formats.split_folder import write_split


def coco(folder: Path, name: str, count: int, first: int = 0, categories=("cat", "dog")) -> Part:
    """``count`` images with one object each, cats and dogs by turns; image ids from 0 in each file."""
    images, annotations = [], []
    (folder / name).mkdir(parents=True)
    for k in range(count):
        pixels = np.random.default_rng(first + k).integers(0, 255, (20, 30, 3), np.uint8)
        cv2.imwrite(str(folder / name / f"{first + k:02}.png"), pixels)
        images.append({"id": k, "file_name": f"{first + k:02}.png", "height": 20, "width": 30})
        box = [1, 2, 5 + first + k, 9]
        annotations.append({"id": k, "image_id": k, "category_id": 1 + k % 2, "bbox": box, "note": "kept"})
    listed = [{"id": k, "name": name} for k, name in enumerate(categories, start=1)]
    content = {"info": {"year": 2020}, "images": images, "annotations": annotations, "categories": listed}
    path = folder / f"annotations/instances_{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return Part(folder / name, path)


def files(part: Part) -> dict[str, list[float]]:
    """The box of the one object by the file that training reads."""
    module = CocoDataModule("/", train=Split(str(part.images), str(part.annotations)), val=None, workers=0)
    data = module.open("train")
    assert all(data.scene(k).image.shape == (20, 30, 3) for k in range(len(data)))
    return {data.path(k).name: data.annotations.boxes(k)[0].tolist() for k in range(len(data))}


def boxes(*numbers: int) -> dict[str, list[float]]:
    return {f"{k:02}.png": [1, 2, 6 + k, 11] for k in numbers}


@pytest.fixture
def parts(tmp_path) -> dict[str, Part]:
    return {"train": coco(tmp_path / "data", "train", 10)}


def test_a_split_is_read_back(tmp_path, parts):
    folder = tmp_path / "out"
    lines = write_split(parts, folder, {"val": 0.2, "test": 0.2})
    data = open_data(folder, need=("train", "val", "test"))
    found = {name: files(part) for name, part in data.parts.items()}
    assert {name: len(own) for name, own in found.items()} == {"train": 6, "val": 2, "test": 2}
    assert found["train"] | found["val"] | found["test"] == boxes(*range(10))
    assert lines == [
        "train: 6 images, 6 objects of 2 classes",
        "val: 2 images, 2 objects of 2 classes",
        "test: 2 images, 2 objects of 2 classes",
    ]
    content = json.loads(data.parts["val"].annotations.read_text())
    assert content["info"] == {"year": 2020}
    assert {one["note"] for one in content["annotations"]} == {"kept"}
    assert not list(folder.rglob("*.png"))


def test_data_and_split_can_be_moved_together(tmp_path, parts):
    write_split(parts, tmp_path / "out", {"val": 0.2, "test": 0})
    (tmp_path / "elsewhere").mkdir()
    for name in ("data", "out"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    data = open_data(tmp_path / "elsewhere/out")
    assert files(data.parts["train"]) | files(data.parts["val"]) == boxes(*range(10))


def test_a_split_may_lie_anywhere(tmp_path, parts):
    folder = tmp_path / "far/away"
    write_split(parts, folder, {"val": 0.2, "test": 0})
    assert json.loads((folder / "rcnn_data.json").read_text())["images"]["val"] == str(tmp_path / "data/train")
    assert len(files(open_data(folder).parts["val"])) == 2


def test_parts_that_are_not_asked_for_stay_as_they_are(tmp_path, parts):
    parts["test"] = coco(tmp_path / "data", "test", 3, 10)
    write_split(parts, tmp_path / "out", {"val": 0.2, "test": 0})
    data = open_data(tmp_path / "out")
    assert files(data.parts["test"]) == boxes(10, 11, 12)
    assert files(data.parts["train"]) | files(data.parts["val"]) == boxes(*range(10))


def test_merged_parts_are_split_anew(tmp_path, parts):
    parts["val"] = coco(tmp_path / "data", "val", 10, 10)
    with pytest.raises(
        ValueError, match="already has val images; add --merge to split all images again, or --val 0 to"
    ):
        write_split(parts, tmp_path / "out", {"val": 0.2, "test": 0.1})
    lines = write_split(parts, tmp_path / "out", {"val": 0.2, "test": 0.1}, merge=True)
    data = open_data(tmp_path / "out")
    found = [files(part) for part in data.parts.values()]
    assert [len(own) for own in found] == [14, 4, 2]
    assert found[0] | found[1] | found[2] == boxes(*range(20))
    assert lines[0] == "train: 14 images, 14 objects of 2 classes"
    for part in data.parts.values():
        assert not load_annotations(part.annotations).report


def test_merged_parts_must_have_the_same_classes(tmp_path, parts):
    parts["val"] = coco(tmp_path / "data", "val", 4, 10, ("cat", "wolf"))
    with pytest.raises(ValueError, match="train and val have different categories; give both files the same list"):
        write_split(parts, tmp_path / "out", {"val": 0.2, "test": 0}, merge=True)


def test_rare_classes_that_a_part_lacks_are_named(tmp_path, parts):
    path = parts["train"].annotations
    content = json.loads(path.read_text())
    content["categories"].append({"id": 3, "name": "yak"})
    content["annotations"].append({"id": 99, "image_id": 0, "category_id": 3, "bbox": [0, 0, 9, 9]})
    path.write_text(json.dumps(content))
    lines = write_split(parts, tmp_path / "out", {"val": 0.2, "test": 0})
    assert lines[-1] == "val has no object of 1 class (images that have one): yak (1)"


def test_other_files_are_never_replaced(tmp_path, parts):
    before = parts["train"].annotations.read_text()
    for overwrite in (False, True):
        with pytest.raises(
            ValueError, match=r"instances_train\.json: belongs to the data set that you split; give another"
        ):
            write_split(parts, tmp_path / "data", {"val": 0.2, "test": 0}, overwrite=overwrite)
    assert parts["train"].annotations.read_text() == before
    other = tmp_path / "out/annotations/instances_val.json"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    with pytest.raises(ValueError, match=r"instances_val\.json: exists already, and rcnn split did not write it"):
        write_split(parts, tmp_path / "out", {"val": 0.2, "test": 0}, overwrite=True)
    assert other.read_text() == "mine"


def test_a_split_is_replaced_on_demand(tmp_path, parts):
    write_split(parts, tmp_path / "out", {"val": 0.2, "test": 0.2})
    with pytest.raises(ValueError, match=r"rcnn_data\.json: exists already; give another --output, or --overwrite"):
        write_split(parts, tmp_path / "out", {"val": 0.5, "test": 0})
    write_split(parts, tmp_path / "out", {"val": 0.5, "test": 0}, overwrite=True)
    data = open_data(tmp_path / "out")
    assert {name: len(files(part)) for name, part in data.parts.items()} == {"train": 5, "val": 5}
    assert not (tmp_path / "out/annotations/instances_test.json").exists()


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (0, 0, "--val 0, --test 0: give fractions from 0 to 1 whose sum is between 0 and 1; the rest is for training"),
        (0.5, 0.5, "the rest is for training"),
        (1.5, -1, "the rest is for training"),
        (float("nan"), 0, "the rest is for training"),
    ],
)
def test_fractions_that_leave_nothing_are_rejected(tmp_path, parts, val, test, message):
    with pytest.raises(ValueError, match=message):
        write_split(parts, tmp_path / "out", {"val": val, "test": test})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "has no image folder for each split; create it again with rcnn split"),
        ('{"images": {"train": 3}}', "has no image folder for each split"),
        ('{"images": {"train": "../nowhere"}}', "train needs .*nowhere, which does not exist; create the split again"),
        ("{", "not valid JSON"),
    ],
)
def test_a_damaged_split_is_said_in_a_line(tmp_path, parts, content, message):
    write_split(parts, tmp_path / "out", {"val": 0.2, "test": 0})
    (tmp_path / "out/rcnn_data.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_data(tmp_path / "out")
    assert "\n" not in str(caught.value)

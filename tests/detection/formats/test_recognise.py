"""Every layout of a data set: written here, opened, and read as in training."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from detection.engine.datamodule import CocoDataModule, Split
from detection.formats import recognise, yolo_layout
from detection.formats.kept import default_cache, kept
from detection.formats.recognise import open_data
from tests.support.layouts import (
    BOX,
    HEIGHT,
    NAMES,
    WIDTH,
    WITH_VAL,
    WITHOUT_VAL,
    archive,
    coco,
    coco_beside,
    coco_own,
    coco_published,
    coco_same_names,
    images_elsewhere,
    labelme,
    lvis,
    nothing,
    one_image,
    pictures_only,
    strange_folder,
    text,
    two_formats,
    two_training_files,
    two_unnamed_files,
    two_voc_folders,
    two_yolo_folders,
    validation_only,
    voc,
    voc_folders,
    voc_published,
    voc_without_images,
    yolo,
    yolo_folders,
    yolo_lists,
    yolo_ultralytics,
    yolo_without_images,
    yolo_without_names,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rcnn-toolkit" / "data"


def opened(data: recognise.DataSet, split: str) -> list[tuple[str, str, list[float]]]:
    """Name of the file, class and box of each object, as training reads them."""
    parts = {name: Split(str(part.images), str(part.annotations)) for name, part in data.parts.items()}
    module = CocoDataModule("/", train=parts["train"], val=parts.get("val"), test=parts.get("test"), workers=0)
    found = module.open(split)
    classes = found.annotations.categories.names
    objects = []
    for k in range(len(found)):
        scene = found.scene(k)  # decodes the image
        assert scene.image.shape == (HEIGHT, WIDTH, 3)
        for box, label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True):
            objects.append((found.path(k).stem, classes[label], [box[0], box[1], box[2] - box[0], box[3] - box[1]]))
    return objects


def expected(*numbers: int) -> list[tuple[str, str, list[float]]]:
    return [(f"{k:03}", NAMES[k % 2], pytest.approx(BOX[NAMES[k % 2]], abs=1e-4)) for k in numbers]


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize("make", WITH_VAL, ids=lambda make: make.__name__)
def test_a_data_set_with_validation_images(tmp_path, make):
    root = tmp_path / "my data"
    make(root)
    before = snapshot(root)
    data = open_data(root)
    assert snapshot(root) == before
    assert data.form == make.__name__.partition("_")[0].upper()
    assert list(data.parts) == ["train", "val"]
    assert opened(data, "train") == expected(0, 1, 2, 3)
    assert opened(data, "val") == (expected(0, 1) if make is coco_same_names else expected(4, 5))
    assert data.lines[0] == f"{data.form} data set: {root}"
    assert open_data(root).parts == data.parts


@pytest.mark.parametrize("make", WITHOUT_VAL, ids=lambda make: make.__name__)
def test_a_data_set_without_validation_images_is_split(tmp_path, cache, make):
    root = tmp_path / "my data"
    make(root)
    before = snapshot(root)
    data = open_data(root)
    assert snapshot(root) == before
    train, val = opened(data, "train"), opened(data, "val")
    assert sorted(train + val) == expected(*range(10))
    assert Counter(name for _, name, _ in val) == {"cat": 1, "dog": 1}
    told = "\n".join(data.lines)
    assert "no validation images: the toolkit validates on 2 of 10 training images (seed 0" in told
    assert "--val-fraction" in told
    assert "rcnn split" in told
    assert data.parts["val"].annotations.is_relative_to(cache)
    assert len(opened(open_data(root, need=("train",)), "train")) == 10
    assert len(opened(open_data(root, val_fraction=0.5), "val")) == 5
    others = {tuple(file for file, _, _ in opened(open_data(root, seed=seed), "val")) for seed in range(5)}
    assert len(others) > 1
    assert opened(open_data(root), "val") == val


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (coco_own, "annotations"),
        (yolo_ultralytics, "data.yaml"),
        (yolo_lists, "mine.yaml"),
        (yolo_ultralytics, "labels"),
        (voc_folders, "annotations"),
        (voc_published, "VOCdevkit"),
        (voc_published, "VOCdevkit/VOC2012"),
        (voc_published, "VOCdevkit/VOC2012/Annotations"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_file_or_folder_of_a_data_set_stands_for_it(tmp_path, make, given):
    make(tmp_path / "data")
    data = open_data(str(tmp_path / "data" / given))
    assert opened(data, "train") == expected(0, 1, 2, 3)
    assert opened(data, "val") == expected(4, 5)


def test_one_annotation_file_is_all_there_is(tmp_path):
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train", 10)
    coco(tmp_path / "annotations/instances_val.json", tmp_path / "val", 2, 10)
    data = open_data(tmp_path / "annotations/instances_train.json")
    assert sorted(opened(data, "train") + opened(data, "val")) == expected(*range(10))
    assert any("instances_val.json in the same folder is not used" in line for line in data.lines)


def test_test_images_do_not_become_validation_images(tmp_path):
    coco(tmp_path / "annotations/instances_train.json", tmp_path / "train", 10)
    coco(tmp_path / "annotations/instances_test.json", tmp_path / "test", 3, 10)
    data = open_data(tmp_path)
    assert list(data.parts) == ["train", "val", "test"]
    assert opened(data, "test") == expected(10, 11, 12)
    assert sorted(opened(data, "train") + opened(data, "val")) == expected(*range(10))
    assert any(
        "there are test images, but no validation images: the toolkit validates on 2 of 10" in line
        for line in data.lines
    )


def test_evaluation_needs_no_training_images(tmp_path):
    coco_published(tmp_path)
    shutil.rmtree(tmp_path / "train2017")
    data = open_data(tmp_path, need=("val",))
    assert list(data.parts) == ["val"]
    assert any("train is left out" in line and "not in any folder near it" in line for line in data.lines)
    with pytest.raises(ValueError, match=r"instances_train2017\.json: image 000\.png is not in any folder near it"):
        open_data(tmp_path)


def test_a_conversion_is_told_in_numbers_also_the_second_time(tmp_path):
    voc_folders(tmp_path)
    path = tmp_path / "annotations/train/000.xml"
    path.write_text(path.read_text().replace("<bndbox>", "<difficult>1</difficult><bndbox>"))
    for _ in range(2):
        told = "\n".join(open_data(tmp_path).lines)
        assert "train: 4 images (0 without objects), 4 objects of 2 classes: 4 boxes" in told
        assert "changed: 1 difficult object (now crowds" in told
        assert "val: 2 images (0 without objects), 2 objects of 2 classes: 2 boxes" in told
    assert "converted to COCO's format earlier, in" in told


def test_classes_that_occur_in_one_split_only_have_one_number(tmp_path):
    voc(tmp_path / "train", tmp_path / "train", 1, 0)  # a cat
    voc(tmp_path / "valid", tmp_path / "valid", 1, 1)  # a dog
    data = open_data(tmp_path)
    assert opened(data, "train") == expected(0)
    assert opened(data, "val") == expected(1)
    lists = [json.loads(part.annotations.read_text())["categories"] for part in data.parts.values()]
    assert lists == [[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]] * 2


def change_label(root: Path) -> None:
    (root / "labels/train/000.txt").write_text("1 0.5 0.5 0.5 0.5\n")


def remove_label(root: Path) -> None:
    (root / "labels/train/000.txt").unlink()


def add_image(root: Path) -> None:
    yolo(root / "images/train", root / "labels/train", 1, 7)


def rename_class(root: Path) -> None:
    path = root / "data.yaml"
    path.write_text(path.read_text().replace("dog", "wolf"))


def touch_label(root: Path) -> None:
    os.utime(root / "labels/train/000.txt", (1, 1))


@pytest.mark.parametrize("change", [change_label, remove_label, add_image, rename_class, touch_label])
def test_what_was_converted_is_kept_until_the_data_change(tmp_path, cache, change):
    yolo_ultralytics(tmp_path)
    first = open_data(tmp_path)
    before = snapshot(cache)
    assert open_data(tmp_path).parts == first.parts
    assert snapshot(cache) == before
    change(tmp_path)
    second = open_data(tmp_path)
    assert second.parts["train"].annotations != first.parts["train"].annotations
    if change is not touch_label:
        assert opened(second, "train") != opened(first, "train")


def test_a_split_follows_the_annotations(tmp_path):
    coco_beside(tmp_path)
    first = open_data(tmp_path)
    coco(tmp_path / "labels.json", tmp_path, 12)
    second = open_data(tmp_path)
    assert len(opened(second, "train")) + len(opened(second, "val")) == 12
    assert len(opened(first, "train")) + len(opened(first, "val")) == 10


def test_a_damaged_folder_of_the_cache_is_made_anew(tmp_path, cache):
    yolo_ultralytics(tmp_path)
    data = open_data(tmp_path)
    data.parts["val"].annotations.unlink()
    assert opened(open_data(tmp_path), "val") == expected(4, 5)
    (data.parts["val"].annotations.parent / "made.json").write_text("{")
    assert opened(open_data(tmp_path), "val") == expected(4, 5)
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


def test_of_two_that_convert_at_once_the_first_wins(tmp_path):
    def make(folder: Path) -> dict:
        (folder / "a.json").write_text("faster")
        return {"files": ["a.json"]}

    def make_slowly(folder: Path) -> dict:
        kept(tmp_path, "key", make)
        (folder / "a.json").write_text("slower")
        return {"files": ["a.json"]}

    folder, note, _ = kept(tmp_path, "key", make_slowly)
    assert note == {"files": ["a.json"]}
    assert (folder / "a.json").read_text() == "faster"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path, cache):
    yolo_ultralytics(tmp_path)
    (tmp_path / "labels/train/000.txt").write_text("7 0.5 0.5 0.5 0.5\n")
    with pytest.raises(ValueError, match=r"000\.txt, line 1: class 7, but names exist only for 0 to 1"):
        open_data(tmp_path)
    (tmp_path / "labels/train/000.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    open_data(tmp_path)
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


def test_a_fault_of_the_disk_is_not_kept(tmp_path, monkeypatch):
    yolo_ultralytics(tmp_path)
    convert = yolo_layout.coco_of

    def fails_for_val(listed, settings, labels, account):
        if len(listed) == 2:
            raise ValueError("000.txt: cannot be read (Input/output error)")
        return convert(listed, settings, labels, account)

    with monkeypatch.context() as patch:
        patch.setattr(yolo_layout, "coco_of", fails_for_val)
        for _ in range(2):
            with pytest.raises(ValueError, match="cannot be read"):
                open_data(tmp_path)
            assert (
                "  val is left out: 000.txt: cannot be read (Input/output error)" in open_data(tmp_path, need=()).lines
            )
    for _ in range(2):
        assert opened(open_data(tmp_path), "val") == expected(4, 5)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, cache, monkeypatch):
    yolo_ultralytics(tmp_path)

    def full(content, path):
        path.write_text("half")
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(recognise, "write_json", full)
        with pytest.raises(
            OSError, match=r"cannot write the converted data set \(No space left on device\); set XDG_CACHE_HOME to"
        ):
            open_data(tmp_path)
    assert not list(cache.iterdir())
    assert opened(open_data(tmp_path), "val") == expected(4, 5)


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    assert default_cache() == tmp_path / "cache/rcnn-toolkit/data"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert default_cache() == Path.home() / ".cache/rcnn-toolkit/data"
    (tmp_path / "file").write_text("")
    yolo_ultralytics(tmp_path / "data")
    with pytest.raises(OSError, match=r"cannot write the converted data set .*; set XDG_CACHE_HOME"):
        open_data(tmp_path / "data", cache=tmp_path / "file/below")


def test_copies_versions_and_frames_stay_together(tmp_path):
    coco(tmp_path / "mine.json", tmp_path, 20)
    content = json.loads((tmp_path / "mine.json").read_text())
    for k, image in enumerate(content["images"]):
        if k < 4:
            image["video_id"] = 1
        elif k < 8:
            (tmp_path / image["file_name"]).rename(tmp_path / f"photo_jpg.rf.{k}.png")
            image["file_name"] = f"photo_jpg.rf.{k}.png"
        elif 8 < k < 11:
            shutil.copy(tmp_path / "008.png", tmp_path / image["file_name"])
    text(tmp_path / "mine.json", json.dumps(content))
    for seed in range(4):
        data = open_data(tmp_path, val_fraction=0.4, seed=seed)
        ids = {i["id"] for i in json.loads(data.parts["val"].annotations.read_text())["images"]}
        for group in (range(4), range(4, 8), range(8, 11)):
            assert len({k in ids for k in group}) == 1
        assert len(ids) == 8
    assert any(line.strip().startswith("11 images stay in one split with their copies") for line in data.lines)


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (nothing, "", "no data set found: data has nothing in it; expected COCO .*, YOLO .*, or VOC"),
        (nothing, "absent", "absent: no such file or folder"),
        (pictures_only, "", "no data set found: data has 1 image file; expected"),
        (nothing, "/dev/null", "/dev/null: is not a data set; give a folder"),
        (pictures_only, "a.png", r"a\.png: is not a data set; give a folder, a data\.yaml, or a COCO annotation file"),
        (two_yolo_folders, "", "val and valid both look like the val split; keep only one of them"),
        (two_voc_folders, "", "train and training both look like the train split"),
        (labelme, "", r"data has 1 image file, 1 \.json file \(not COCO\)"),
        (labelme, "a.json", r"is not a COCO annotation file \(no lists of images and annotations\)"),
        (archive, "my.zip", r"my\.zip: is an archive; unpack it, and give the folder"),
        (archive, "", "data has 1 archive file;"),
        (strange_folder, "", r"no data set found: a\\n\\x1b\[2J has 1 image file; expected"),
        (
            two_formats,
            "",
            r"has COCO annotations \(annotations/instances_train\.json\) and YOLO labels \(data\.yaml\); ",
        ),
        (two_training_files, "", r"annotations/instances_train\.json and .*2017\.json both are for the train images"),
        (
            two_unnamed_files,
            "",
            r"labels\.json and others\.json both list images, and no name contains train or val",
        ),
        (images_elsewhere, "", r"instances_train\.json: image 000\.png is not in any folder near it \("),
        (yolo_without_names, "", r"no data\.yaml with names, classes\.txt, .*; write a classes\.txt"),
        (yolo_without_images, "", r"data\.yaml: train is images/train, but there are no images; correct path or train"),
        (voc_without_images, "", "Annotations: has XML files, but no images beside them or in .*JPEGImages"),
        (lvis, "", r"lvis_v1_train\.json: no image has a file_name \(an LVIS file\?\); convert it with rcnn convert"),
        (one_image, "", "data: has no validation images, and 1 image cannot be split into 2 parts"),
        (validation_only, "", "data: has no train images, only val"),
    ],
)
def test_what_cannot_be_opened_is_said_in_a_line(tmp_path, make, given, message):
    make(tmp_path / "data")
    with pytest.raises(ValueError, match=message) as caught:
        open_data(tmp_path / "data" / given)
    assert "\n" not in str(caught.value)


def test_folders_of_no_split_are_named(tmp_path):
    yolo_folders(tmp_path / "yolo")
    yolo(tmp_path / "yolo/images/extra", tmp_path / "yolo/labels/extra", 1)
    assert "  not read, because their names contain no split: extra" in open_data(tmp_path / "yolo").lines
    voc_published(tmp_path / "voc")
    top = tmp_path / "voc/VOCdevkit/VOC2012"
    voc(top / "JPEGImages", top / "Annotations", 2, 8)
    assert "  not read: 2 XML files that no list in ImageSets/Main contains" in open_data(tmp_path / "voc").lines
    coco_published(tmp_path / "coco")
    assert "  not read: annotations/person_keypoints_train2017.json" in open_data(tmp_path / "coco").lines


def test_splits_that_share_images_are_told(tmp_path):
    coco_same_names(tmp_path / "data")
    assert not [line for line in open_data(tmp_path / "data").lines if "share images," in line]
    shutil.rmtree(tmp_path / "data/val")
    assert "  train and val share images, for example 000.png" in open_data(tmp_path / "data").lines
    yolo_ultralytics(tmp_path / "yolo")
    path = tmp_path / "yolo/data.yaml"
    path.write_text(path.read_text().replace("images/val", "images/train"))
    assert "  train and val share images, for example 000.png" in open_data(tmp_path / "yolo").lines


def test_a_split_that_is_not_there_is_said(tmp_path):
    coco_own(tmp_path)
    with pytest.raises(
        ValueError, match="has no test images, only train and val; add them, or create them with rcnn split"
    ):
        open_data(tmp_path, need=("test",))
    with pytest.raises(ValueError, match=r"--val-fraction 1 must be between 0 and 1"):
        open_data(tmp_path / "annotations/instances_train.json", val_fraction=1)


@pytest.mark.parametrize("form", ["COCO", "YOLO", "VOC"])
def test_real_images_in_each_format(tmp_path, shared_data, form):
    from detection.coco.annotations import load_annotations
    from detection.formats.voc import write_voc
    from detection.formats.yolo import write_yolo

    mini = shared_data / "coco_mini"
    if form == "COCO":
        data = open_data(mini)
    else:
        for split in ("train", "val"):
            content = load_annotations(mini / f"annotations/instances_{split}2017.json").to_coco()
            for one in mini.glob(f"{split}2017/*.jpg"):
                target = tmp_path / ("images" if form == "YOLO" else "JPEGImages") / split / one.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(one)
            folder = tmp_path / split
            write_yolo(content, folder) if form == "YOLO" else write_voc(content, folder)
            target = tmp_path / ("labels" if form == "YOLO" else "Annotations") / split
            target.parent.mkdir(exist_ok=True)
            (folder / "labels" if form == "YOLO" else folder).rename(target)
            if form == "YOLO":
                (folder / "data.yaml").rename(tmp_path / "data.yaml")
                folder.rmdir()
        data = open_data(tmp_path)
    assert data.form == form
    counts = [load_annotations(part.annotations).num_objects for part in data.parts.values()]
    assert counts == {"COCO": [746, 712], "VOC": [746, 712], "YOLO": [740, 707]}[form]  # YOLO has no crowds

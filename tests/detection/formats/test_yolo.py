import json

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from detection.coco.annotations import load_annotations
from detection.formats.yolo import read_yolo, write_yolo
from tests.support.commands import convert as main

BOX = "0 0.5 0.5 0.2 0.2\n"


def data_set(folder, labels=BOX, settings=None, name="a"):
    """One image of 100 x 200 with its text file."""
    for kind in ("images", "labels"):
        (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "images" / f"{name}.jpg"), np.zeros((100, 200, 3), np.uint8))
    (folder / "labels" / f"{name}.txt").write_text(labels)
    if settings is not None:
        (folder / "data.yaml").write_text(settings)
    return folder


def names(content):
    return [category["name"] for category in content["categories"]]


WORDS = ["on", "off", "yes", "no", "007", "1e3", "null", "~", "2024-01-01", "1_000", "0x1f", "12:30"]


@pytest.mark.parametrize(
    "text", ["".join(f"- {word}\n" for word in WORDS), "".join(f"  {k}: {word}\n" for k, word in enumerate(WORDS))]
)
def test_names_that_yaml_takes_for_other_values_stay_text(tmp_path, text):
    content, account = read_yolo(data_set(tmp_path, settings=f"names:\n{text}"))
    assert names(content) == WORDS
    assert account.classes == {"on": 1}


def test_names_that_are_written_are_read_back(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 200}],
        "categories": [{"id": k, "name": word} for k, word in enumerate([*WORDS, "a: b", "- c", "#d", "é 猫", "'"], 5)],
        "annotations": [{"image_id": 1, "category_id": 5, "bbox": [90, 40, 20, 20]}],
    }  # fmt: skip
    data_set(tmp_path)
    write_yolo(coco, tmp_path)
    assert names(read_yolo(tmp_path)[0]) == [category["name"] for category in coco["categories"]]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "cat\nsea lion\n\n"),
        ("labels/classes.txt", "cat\r\nsea lion"),
        ("obj.names", "cat\nsea lion"),
        ("coco.names", "cat\nsea lion"),
        ("labels/_darknet.labels", "cat\nsea lion\n"),
        ("notes.json", '{"categories": [{"id": 1, "name": "sea lion"}, {"id": 0, "name": "cat"}], "info": {}}'),
        ("coco8.yaml", "train: images\nnames: [cat, sea lion]"),
    ],
)
def test_names_are_found_where_tools_write_them(tmp_path, file, text):
    data_set(tmp_path, "1 0.5 0.5 0.2 0.2")
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / file).write_text(text)
    for source, images in ((tmp_path, None), (tmp_path / "labels", None), (tmp_path / "labels", tmp_path / "images")):
        content, account = read_yolo(source, images)
        assert names(content) == ["cat", "sea lion"]
        assert account.classes == {"sea lion": 1}
        assert not account.lost  # a list of names is no label file
        assert [image["file_name"] for image in content["images"]] == ["a.jpg"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("classes.txt", "cat\n\ndog", r"classes\.txt, line 2: is empty"),
        ("notes.json", '{"categories": [{"id": 1, "name": "cat"}]}', "no number 0"),
        ("notes.json", '{"categories": [1]}', "not a list of id and name"),
        ("data.yaml", "names: [cat]\nnc: 2", r"data\.yaml: nc is 2, but names has 1"),
        ("data.yaml", "names: [[cat]]", "name 0 is"),
        ("data.yaml", "[cat]", "is not a mapping"),
        ("data.yaml", "names: [cat]\nkpt_shape: [4]", "kpt_shape is"),
        ("data.yaml", "names: [cat]\nkpt_shape: [4, 1" + "0" * 4000 + "]", "not valid YAML|kpt_shape is"),
        (
            "data.yaml",
            "names: [cat]\nkpt_shape: [2, 3]\nkpt_names: {0: [nose]}",
            r"kpt_names must have as many names as kpt_shape \(2\)",
        ),
    ],
)
def test_settings_that_are_wrong_are_rejected_by_file(tmp_path, file, text, message):
    data_set(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_yolo(tmp_path)
    assert str(tmp_path / file) in str(raised.value)


@pytest.mark.parametrize(("turn", "size"), [(1, (100, 200)), (3, (100, 200)), (6, (200, 100)), (8, (200, 100))])
def test_sizes_and_boxes_are_those_of_the_image_as_exif_turns_it(tmp_path, turn, size):
    data_set(tmp_path, "0 0.25 0.5 0.5 0.1", "names: [lamp]")
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", (200, 100)).save(tmp_path / "images/a.jpg", exif=exif)
    content, _ = read_yolo(tmp_path)
    height, width = size
    assert content["images"] == [{"id": 1, "file_name": "a.jpg", "height": height, "width": width}]
    x, y, w, h = content["annotations"][0]["bbox"]
    assert (x, y, w, h) == pytest.approx((0, 0.45 * height, 0.5 * width, 0.1 * height))


def test_keypoints_with_visibility_are_kept_beside_the_box(tmp_path):
    settings = "kpt_shape: [2, 3]\nnames: {0: person}\nkpt_names:\n  0: [nose, tail]"
    data_set(tmp_path, "0 0.5 0.5 0.2 0.4 0.25 0.3 2 0 0 0\n0 0.5 0.5 0.2 0.4 0.1 0.1 1.000 1 1 2", settings)
    content, account = read_yolo(tmp_path)
    first, second = content["annotations"]
    assert first["bbox"] == pytest.approx([80, 30, 40, 40])
    assert "segmentation" not in first
    assert (first["keypoints"], first["num_keypoints"]) == ([50, 30, 2, 0, 0, 0], 1)
    assert (second["keypoints"], second["num_keypoints"]) == ([20, 10, 1, 200, 100, 2], 2)
    assert content["categories"] == [{"id": 1, "name": "person", "keypoints": ["nose", "tail"], "skeleton": []}]
    assert account.forms == {"boxes with keypoints": 2}


def test_keypoints_without_visibility_are_seen_unless_at_the_corner(tmp_path):
    settings = "kpt_shape: [3, 2]\nnames: {0: person}"
    data_set(tmp_path, "0 0.5 0.5 0.2 0.4 0.25 0.3 0 0 0 0.5", settings)
    (entry,) = read_yolo(tmp_path)[0]["annotations"]
    assert (entry["keypoints"], entry["num_keypoints"]) == ([50, 30, 2, 0, 0, 0, 0, 50, 2], 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2 0.4 0.3 0.3 2", r"7 numbers; a box with kpt_shape \[2, 3\] needs 10"),
        ("0 0.5 0.5 0.2 0.4 0.3 0.3 7 0 0 0", "third number must be 0, 1 or 2"),
        ("0 0.5 0.5 0.2 0.4 30 30 2 0 0 0", "not pixels"),
    ],
)
def test_broken_keypoints_are_rejected_by_line(tmp_path, line, message):
    data_set(tmp_path, line, "kpt_shape: [2, 3]\nnames: {0: person}")
    with pytest.raises(ValueError, match=rf"a\.txt, line 1: .*{message}"):
        read_yolo(tmp_path)


def test_boxes_polygons_and_oriented_boxes_of_one_file(tmp_path):
    turned = "0 0.5 0.3 0.6 0.5 0.5 0.7 0.4 0.5"
    data_set(tmp_path, f"0.0 0.5 0.5 0.2 0.2\n\n{turned}\n0 0.1 0.1 0.2 0.1 0.2 0.2\n", "names: [cat]")
    content, account = read_yolo(tmp_path)
    assert account.forms == {"boxes": 1, "polygons": 1, "polygons of four points, such as oriented boxes": 1}
    box, oriented, triangle = content["annotations"]
    assert box["bbox"] == pytest.approx([80, 40, 40, 20])
    assert oriented["bbox"] == pytest.approx([80, 30, 40, 40])
    assert oriented["segmentation"][0] == pytest.approx([100, 30, 120, 50, 100, 70, 80, 50])
    assert triangle["segmentation"][0] == pytest.approx([20, 10, 40, 10, 40, 20])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_other_editors_are_read(tmp_path, encoding):
    data_set(tmp_path)
    (tmp_path / "labels/a.txt").write_bytes(BOX.encode(encoding))
    (tmp_path / "classes.txt").write_bytes("猫\r\n".encode(encoding))
    content, account = read_yolo(tmp_path)
    assert account.objects == 1
    assert names(content) == ["猫"]


def test_empty_and_missing_text_files_are_background(tmp_path):
    data_set(tmp_path, settings="names: [cat]")
    data_set(tmp_path, labels="", name="b")
    data_set(tmp_path, name="c")
    (tmp_path / "labels/c.txt").rename(tmp_path / "labels/d.txt")
    content, account = read_yolo(tmp_path)
    assert len(content["images"]) == 3
    assert account.images == {"with objects": 1, "without objects": 2}
    assert account.lost == {"text files without an image": 1}
    assert "images without a text file: 1" in str(account)


@pytest.mark.parametrize("labels", [None, ""])
def test_no_object_at_all_is_an_error(tmp_path, capsys, labels):
    data_set(tmp_path, labels or "", "names: [cat]")
    if labels is None:
        (tmp_path / "labels/a.txt").unlink()
    with pytest.raises(SystemExit) as stop:
        main(["yolo2coco", str(tmp_path), str(tmp_path / "out.json")])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert f"{tmp_path}: no objects: " in told
    assert ("none of 1 image has a text file" if labels is None else "text file is empty") in told
    assert not (tmp_path / "out.json").exists()


def split_data(tmp_path):
    data_set(tmp_path, name="train/a")
    data_set(tmp_path, name="train/deep/b")
    data_set(tmp_path, name="val/a")
    return tmp_path / "data.yaml"


@pytest.mark.parametrize(
    ("train", "files"),
    [
        ("images/train", ["a.jpg", "deep/b.jpg"]),
        ("./images/train/", ["a.jpg", "deep/b.jpg"]),
        ("../images/train", ["a.jpg", "deep/b.jpg"]),
        (r"images\train", ["a.jpg", "deep/b.jpg"]),
        ("[images/train/deep, images/train/a.jpg]", ["images/train/a.jpg", "images/train/deep/b.jpg"]),
        ("train.txt", ["images/train/a.jpg", "images/train/deep/b.jpg"]),
    ],
)
@pytest.mark.parametrize("root", ["", "path: .\n", "path: /nowhere/of/another/computer\n"])
def test_a_split_is_where_data_yaml_says(tmp_path, root, train, files):
    path = split_data(tmp_path)
    path.write_text(f"{root}train: {train}\nval: images/val\ntest:\nnames: [cat]\n")
    (tmp_path / "train.txt").write_text("./images/train/a.jpg\nimages\\train\\deep\\b.jpg\n")
    for source in (path, tmp_path):
        content, account = read_yolo(source, split="train")
        assert [image["file_name"] for image in content["images"]] == files
        assert account.objects == 2
    with pytest.raises(ValueError, match=r"--split test: .*data\.yaml has train, val"):
        read_yolo(path, split="test")


def test_all_splits_are_taken_without_one(tmp_path):
    path = split_data(tmp_path)
    path.write_text("train: images/train\nval: images/val\ntest: images/test\nnames: [cat]\n")
    content, account = read_yolo(path)
    assert [image["file_name"] for image in content["images"]] == [
        "images/train/a.jpg", "images/train/deep/b.jpg", "images/val/a.jpg",
    ]  # fmt: skip
    assert account.lost == {"splits whose images are missing (test)": 1}
    assert f"file names are relative to {tmp_path}" in str(account)


def test_labels_are_found_in_mirrored_folders(tmp_path):
    split_data(tmp_path)
    for source in (tmp_path, tmp_path / "labels", tmp_path / "labels/train"):
        content, account = read_yolo(source, tmp_path / "images/train", ["cat"])
        assert [image["file_name"] for image in content["images"]] == ["a.jpg", "deep/b.jpg"]
        assert account.objects == 2


def test_labels_beside_the_images_are_found(tmp_path):
    cv2.imwrite(str(tmp_path / "a.JPG"), np.zeros((100, 200, 3), np.uint8))
    (tmp_path / "a.txt").write_text(BOX)
    (tmp_path / "classes.txt").write_text("cat")
    assert read_yolo(tmp_path)[1].objects == 1


def disc():
    y, x = np.mgrid[:100, :120]
    mask = ((x - 60) ** 2 + (y - 50) ** 2 < 30**2).astype(np.uint8)
    mask[45:55, 55:65] = 0  # with a hole
    return coco_mask.encode(np.asfortranarray(mask))


def test_what_coco2yolo_writes_yolo2coco_reads_back(tmp_path, capsys):
    rle = disc()
    entry = {"image_id": 1, "category_id": 3, "iscrowd": 0}
    two = [[1, 1, 9, 1, 9, 9], [20, 20, 25, 20, 25, 25, 20, 25]]
    coco = {
        "images": [{"id": k, "file_name": f"cam\\{k}.jpg", "height": 100, "width": 120} for k in (1, 2)],
        "categories": [{"id": 3, "name": "disc"}, {"id": 9, "name": "on"}],
        "annotations": [
            entry | {"id": 1, "bbox": [31, 21, 59, 59], "segmentation": {**rle, "counts": rle["counts"].decode()}},
            entry | {"id": 2, "bbox": [1, 1, 24, 24], "segmentation": two, "category_id": 9, "keypoints": [1, 2, 2]},
            entry | {"id": 3, "bbox": [5, 5, 10, 10], "image_id": 2},
        ],
    }
    (tmp_path / "in.json").write_text(json.dumps(coco))
    for k in (1, 2):
        (tmp_path / "images/cam").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"images/cam/{k}.jpg"), np.zeros((100, 120, 3), np.uint8))
    main(["coco2yolo", str(tmp_path / "in.json"), str(tmp_path / "yolo"), "--segments"])
    told = capsys.readouterr().out
    assert "2 images (2 with objects), 3 objects" in told
    assert "1 RLE outline, 1 polygon, 1 rectangle" in told
    assert "1 value of keypoints" in told
    for source in ("yolo", "yolo/labels"):
        main(["yolo2coco", str(tmp_path / source), str(tmp_path / "out.json"), "--images", str(tmp_path / "images")])
        before, after = load_annotations(tmp_path / "in.json"), load_annotations(tmp_path / "out.json")
        assert after.categories.names == ("disc", "on")
        assert [after.file_name(i) for i in range(2)] == ["cam/1.jpg", "cam/2.jpg"]
        for i in range(2):
            assert np.allclose(after.boxes(i), before.boxes(i), atol=1e-4)
            assert np.array_equal(after.labels(i), before.labels(i))
        first, second = (after.segmentation(0, k) for k in range(2))
        for polygons, truth in ((first, [rle]), (second, coco_mask.frPyObjects(two, 100, 120))):
            drawn = coco_mask.merge(coco_mask.frPyObjects([p.ravel().tolist() for p in polygons], 100, 120))
            assert coco_mask.iou([drawn], [coco_mask.merge(truth)], [0])[0, 0] > 0.999


def test_parts_that_overlap_leave_no_hole(tmp_path):
    parts = [[10, 10, 60, 10, 60, 60, 10, 60], [40, 40, 90, 40, 90, 90, 40, 90]]
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 120}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 80, 80], "segmentation": parts}],
    }
    write_yolo(coco, tmp_path, segments=True)
    polygon = np.array((tmp_path / "labels/a.txt").read_text().split()[1:], float).reshape(-1, 2) * [120, 100]
    # 50 x 50 twice, less the 20 x 20 that both cover.
    assert coco_mask.area(coco_mask.frPyObjects([polygon.ravel().tolist()], 100, 120)[0]) == 4600


def test_boxes_are_cut_at_their_image(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 200}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [-20, 50, 60, 80]}],
    }
    account = write_yolo(coco, tmp_path)
    values = [float(word) for word in (tmp_path / "labels/a.txt").read_text().split()]
    assert values == pytest.approx([0, 0.1, 0.75, 0.2, 0.5])
    assert account.changed == {"boxes cut at the edge of their image": 1}
    assert yaml.safe_load((tmp_path / "data.yaml").read_text()) == {"names": {0: "cat"}}


@pytest.mark.parametrize("entry", ["x" * 999, "a\0b", "images/" + "y" * 999])
def test_places_that_no_file_system_has_are_not_there(tmp_path, entry):
    data_set(
        tmp_path, settings=f'train: "{entry}"\nval: list.txt\npath: {"z" * 999}\nnames: [cat]'.replace("\0", "\\0")
    )
    (tmp_path / "list.txt").write_text(f"images/a.jpg\n{entry}\n")
    if "\0" in entry:
        with pytest.raises(ValueError, match=r"data\.yaml: train is "):
            read_yolo(tmp_path)
    else:
        account = read_yolo(tmp_path)[1]
        assert account.objects == 1
        assert account.lost == {"splits whose images are missing (train)": 1, "listed images that are missing": 1}

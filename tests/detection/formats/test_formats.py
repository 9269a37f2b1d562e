import json

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.coco.annotations import check_same_categories, load_annotations
from detection.formats.convert import lvis_to_coco
from detection.formats.voc import read_voc, write_voc
from detection.formats.yolo import read_yolo, write_yolo
from tests.support.commands import convert as main


def coco(boxes, **changes) -> dict:
    """Two images of 60 x 80; all boxes on the first."""
    return {
        "images": [{"id": i, "height": 60, "width": 80, "file_name": f"deep/{i} ü.png"} for i in (1, 2)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "sea lion"}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": (3, 7)[k % 2], "bbox": list(box), "iscrowd": 0}
            | {"area": box[2] * box[3], **changes}
            for k, box in enumerate(boxes, start=1)
        ],
    }  # fmt: skip


def named(content: dict) -> list:
    """Objects as (file, class, box), whatever the ids."""
    files = {i["id"]: i["file_name"] for i in content["images"]}
    names = {c["id"]: c["name"] for c in content["categories"]}
    return [(files[a["image_id"]], names[a["category_id"]], a["bbox"]) for a in content["annotations"]]


BOXES = st.lists(
    st.tuples(st.floats(0, 40), st.floats(0, 30), st.floats(0.5, 40), st.floats(0.5, 30)), min_size=1, max_size=5
)


@settings(max_examples=40, deadline=None)
@given(BOXES)
def test_voc_and_back(tmp_path_factory, boxes):
    folder = tmp_path_factory.mktemp("voc")
    given = coco(boxes)
    write_voc(given, folder)
    back, account = read_voc(folder)
    assert not account.lost
    assert not account.changed
    for (file, name, box), (file_again, name_again, again) in zip(named(given), named(back), strict=True):
        assert (file, name) == (file_again, name_again)
        assert again == pytest.approx(box, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(BOXES, st.booleans())
def test_yolo_and_back(tmp_path_factory, boxes, segments):
    folder = tmp_path_factory.mktemp("yolo")
    given = coco(boxes)
    for entry in given["images"]:
        image(folder / "images" / entry["file_name"])
    write_yolo(given, folder, segments)
    back, account = read_yolo(folder / "labels", folder / "images")
    assert not account.lost
    assert not account.changed
    for (file, name, box), (file_again, name_again, again) in zip(named(given), named(back), strict=True):
        assert (file, name) == (file_again, name_again)
        assert again == pytest.approx(box, abs=1e-9)


def test_what_has_no_place_is_counted(tmp_path):
    polygon = [[1, 1, 9, 1, 9, 9], [20, 20, 25, 20, 25, 25, 20, 25]]
    given = coco([(1, 1, 24, 24)], segmentation=polygon)
    assert write_voc(given, tmp_path / "voc").lost == {"categories without objects": 1, "masks": 1}
    assert write_yolo(given, tmp_path / "yolo").lost == {"masks (kept with --segments)": 1}
    parts = write_yolo(given, tmp_path / "parts", segments=True)
    assert not parts.lost
    assert parts.changed == {"outlines of parts or holes joined to their object by a line of zero width": 1}
    crowd = coco([(1, 1, 24, 24), (30, 30, 9, 9)])
    crowd["annotations"][0] |= {"iscrowd": 1, "segmentation": {"size": [60, 80], "counts": "x"}}
    account = write_yolo(crowd, tmp_path / "crowd")
    assert account.lost == {"crowds (YOLO has no crowds)": 1}
    assert account.objects == 1
    write_voc(crowd, tmp_path / "difficult")
    assert read_voc(tmp_path / "difficult")[0]["annotations"][0]["iscrowd"] == 1


def voc(*classes, file="a.png", width=80, xmin: object = 1, difficult: object = 0) -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{xmin}</xmin><ymin>1</ymin>"
        "<xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        for name in classes
    )
    size = f"<size><width>{width}</width><height>60</height></size>"
    return f"<annotation><filename>{file}</filename>{size}{objects}</annotation>"


def image(path, height=60, width=80):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.zeros((height, width, 3), np.uint8))[1].tobytes())


def test_all_parts_of_an_object_are_written_as_one_polygon(tmp_path):
    large, small = [0, 0, 40, 0, 40, 30, 0, 30], [70, 50, 71, 50, 72, 51, 71, 52, 70, 53]
    write_yolo(coco([(0, 0, 72, 53)], segmentation=[small, large]), tmp_path, segments=True)
    (line,) = (tmp_path / "labels/deep/1 ü.txt").read_text().splitlines()
    points = np.array(line.split()[1:], dtype=float).reshape(-1, 2) * [80, 60]
    # Around the large part to its corner at 40, 30, to the small one, around that, and back.
    corners = [(0, 0), (40, 0), (40, 30), (70, 50), (71, 50), (72, 51), (71, 52), (70, 53), (70, 50), (40, 30), (0, 30)]
    assert np.allclose(points, corners)


def test_images_that_would_share_a_file_are_refused_before_any_is_written(tmp_path):
    given = coco([(1, 1, 5, 5)])
    given["images"][1]["file_name"] = "deep/1 ü.jpg"
    for write in (write_voc, write_yolo):
        with pytest.raises(ValueError, match=r"deep/1 ü\.png and deep/1 ü\.jpg would share .*; rename one"):
            write(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "labels").mkdir()
    image(tmp_path / "images/a.png")
    image(tmp_path / "images/a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg and a\.png would share .*a\.txt; rename one"):
        read_yolo(tmp_path / "labels", tmp_path / "images", ["cat"])


@pytest.mark.parametrize("name", ["../1.png", "/1.png"])
def test_nothing_is_written_outside_the_folder(tmp_path, name):
    given = coco([(1, 1, 5, 5)])
    given["images"][1]["file_name"] = name
    for write in (write_voc, write_yolo):
        with pytest.raises(ValueError, match=f"image {name}: .* would be outside"):
            write(given, tmp_path / "out")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({1: "cat", 2: "dog"}, "names has 2 classes but no number 0"),
        ({0: "cat", 2: "dog", 3: "cow"}, "no number 1"),
        ({"0": "cat", 0: "dog"}, "key 0 occurs twice"),
        ({"cat": 0}, "which is not a number"),
        ("cat", "names is 'cat'; write a list"),
        ([], "names is empty"),
        (["cat", ""], "name 1 is ''"),
    ],
)
def test_names_that_are_not_numbered_from_0_are_refused(tmp_path, names, message):
    image(tmp_path / "a.png")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"names": names}))
    with pytest.raises(ValueError, match=message):
        read_yolo(tmp_path, tmp_path)


def test_names_whose_numbers_are_text_are_in_the_order_of_the_numbers(tmp_path):
    image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("2 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"names": {str(k): f"class {k}" for k in range(12)}}))
    content, _ = read_yolo(tmp_path, tmp_path)
    assert [category["name"] for category in content["categories"]] == [f"class {k}" for k in range(12)]
    assert named(content)[0][1] == "class 2"


def test_yolo_files_that_are_no_text_are_named(tmp_path):
    image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(ValueError, match=r"a\.txt: is not text in UTF-8"):
        read_yolo(tmp_path, tmp_path, ["cat"])
    (tmp_path / "data.yaml").write_text("names: [cat")
    with pytest.raises(ValueError, match=r"data\.yaml: not valid YAML"):
        read_yolo(tmp_path, tmp_path)


def test_pixels_from_one(tmp_path):
    write_voc(coco([(0, 0, 10, 10)]), tmp_path)
    path = min(tmp_path.rglob("*.xml"))
    path.write_text(path.read_text().replace("<xmin>0.0", "<xmin>1").replace("<ymin>0.0", "<ymin>1"))
    assert read_voc(tmp_path, one_based=True)[0]["annotations"][0]["bbox"] == [0, 0, 10, 10]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares a document type"),
        ("<annotation>", "is not XML"),
        ("<html/>", "begins with <html>"),
        ("<annotation><filename>a.png</filename></annotation>", "has no <size/width>"),
        (voc("cat", width=0), r"<size> is 0 x 60; write the size of the image"),
        (voc("cat", xmin="a"), r"<bndbox/xmin> is 'a'; it must be a number"),
        (voc("cat", xmin="nan"), r"<bndbox/xmin> is 'nan'; it must be a number"),
        (voc("cat", difficult=2), r"<difficult> is '2'; it must be 0 or 1"),
    ],
)
def test_broken_xml_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(ValueError, match=f"a.xml: .*{message}"):
        read_voc(tmp_path)


def test_what_is_not_told_to_be_difficult_is_not(tmp_path):
    for k, difficult in enumerate(["", "0", "Unspecified", " 1 "]):
        (tmp_path / f"{k}.xml").write_text(voc("cat", file=f"{k}.png", difficult=difficult))
    assert [a["iscrowd"] for a in read_voc(tmp_path)[0]["annotations"]] == [0, 0, 0, 1]


def test_splits_have_the_same_ids_by_the_names_of_the_classes(tmp_path, capsys):
    for split, classes in (("train", ["cat", "dog"]), ("val", ["dog"])):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.xml").write_text(voc(*classes))
        main(["voc2coco", str(tmp_path / split), str(tmp_path / f"{split}.json"), "--names", "dog", "cat"])
    train, val = (load_annotations(tmp_path / f"{split}.json") for split in ("train", "val"))
    check_same_categories(train, val)
    assert val.categories.names == ("dog", "cat")
    with pytest.raises(ValueError, match=r"a\.xml: has an object of class 'dog', which is not in cat"):
        read_voc(tmp_path / "val", classes=["cat"])
    with pytest.raises(ValueError, match="one occurs twice"):
        read_voc(tmp_path / "val", classes=["dog", "dog"])
    (tmp_path / "val" / "a.xml").write_text(voc())
    with pytest.raises(ValueError, match="no file contains an object"):
        read_voc(tmp_path / "val")


def test_what_training_will_drop_or_mend_is_told(tmp_path, capsys):
    (tmp_path / "a.xml").write_text(voc("cat", xmin=20))  # the right side is left of it
    (tmp_path / "b.xml").write_text(voc("cat", difficult=1))
    main(["voc2coco", str(tmp_path), str(tmp_path / "out" / "coco.json")])
    told = capsys.readouterr().out
    assert f"{tmp_path / 'out' / 'coco.json'}:\n" in told
    assert "1 box without area (dropped), 50% of 2: 1\n" in told
    assert "1 image named as its XML file, not as <filename> says\n" in told
    assert "1 difficult object (now crowds: neither learned nor scored)\n" in told
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["coco.json"]
    image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("0 1.5 1.5 0.2 0.2\n")
    main(["yolo2coco", str(tmp_path), str(tmp_path / "out" / "coco.json"), "--images", str(tmp_path), "--names", "cat"])
    assert "1 box outside its image (dropped), 100% of 1: 1\n" in capsys.readouterr().out


def test_what_training_would_refuse_leaves_no_file_and_the_old_one(tmp_path, capsys):
    content = coco([(1, 1, 5, 5)])
    content["images"][1]["height"] = 0
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "coco.json").write_text("old")
    with pytest.raises(SystemExit) as stop:
        main(["lvis2coco", str(tmp_path / "lvis.json"), str(tmp_path / "out" / "coco.json")])
    assert stop.value.code == 2
    assert f"{tmp_path / 'lvis.json'}: image 2 has height 0" in capsys.readouterr().err
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["old"]


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5 0.5 0.5",
        "7 0.5 0.5 0.1 0.1",
        "cat 1 1 1 1",
        "0 nan 0.5 0.5 0.5",
        "0 1 1 1 1 1",
        "0.5 1 1 1 1",
        "0 50 50 20 20",
        "0 0.5 0.5 0.1 0.1 0.2 0.2 2 0.3 0.3 2",
        "0 0.5 0.5 0.1 1_0",
    ],
)
def test_broken_lines_are_refused_by_name(tmp_path, line):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "a.txt").write_text(f"0 0.5 0.5 0.5 0.5\n{line}\n")
    with pytest.raises(ValueError, match=r"a\.txt, line 2"):
        read_yolo(tmp_path, tmp_path, ["cat"])
    with pytest.raises(ValueError, match=r"no data\.yaml"):
        read_yolo(tmp_path, tmp_path)


def test_lvis():
    content = coco([(1, 1, 5, 5)])
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image['id']:012d}.jpg"
        image["neg_category_ids"] = [7]
        del image["file_name"]
    del content["annotations"][0]["iscrowd"]
    found, account = lvis_to_coco(content, "lvis.json")
    assert found["images"][0]["file_name"] == "val2017/000000000001.jpg"
    assert found["annotations"][0]["iscrowd"] == 0
    assert sum(account.lost.values()) == 2
    assert str(account).startswith("converted: 2 images (1 with objects, 1 without objects), 1 object")


def test_the_command_round_trips_real_annotations(shared_data, tmp_path, capsys):
    source = shared_data / "coco_mini/annotations/instances_val2017.json"
    main(["coco2yolo", str(source), str(tmp_path / "yolo")])
    images = str(shared_data / "coco_mini/val2017")
    main(["yolo2coco", str(tmp_path / "yolo/labels"), str(tmp_path / "back.json"), "--images", images])
    before, after = load_annotations(source), load_annotations(tmp_path / "back.json")
    crowds = sum(int(before.crowd(i).sum()) for i in range(len(before)))
    assert after.num_objects == before.num_objects - crowds
    assert after.categories.names == before.categories.names
    assert "crowds" in capsys.readouterr().out


def test_mistakes_are_told(tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps([]))
    for arguments in (
        ["coco2voc", "a.json", "out"],
        ["voc2coco", "nowhere", "out.json"],
        ["coco2voc", "a.json", "out", "--one-based"],
        ["yolo2coco", ".", "out.json", "--names", "cat"],
    ):
        with pytest.raises(SystemExit) as stop:
            main([arguments[0], str(tmp_path / arguments[1]), str(tmp_path / arguments[2]), *arguments[3:]])
        assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "--images" in told
    assert "--one-based is for voc2coco, not for coco2voc" in told

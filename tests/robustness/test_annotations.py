"""Broken annotations, cases 1 to 35 of docs/reference/input-checks.md: rejected, repaired or counted, or no matter."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from detection.coco.annotations import check_same_categories, load_annotations
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.evaluation.coco import CocoEvaluator
from detection.ops.matching import match
from detection.structures import IGNORE

POLYGON = [[10, 20, 30, 20, 30, 30, 10, 30]]


def base() -> dict:
    """Two images of 60 x 80, one good object on the first."""
    return {
        "images": [{"id": i, "height": 60, "width": 80, "file_name": f"{i}.png"} for i in (100, 200)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {
                "id": 9, "image_id": 100, "category_id": 3, "bbox": [10, 20, 20, 10], "area": 200.0, "iscrowd": 0,
                "segmentation": POLYGON,
            },
        ],
    }  # fmt: skip


class File:
    """Writes a COCO file and loads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "coco.json"

    def load(self, content=None, **changes):
        content = base() if content is None else content
        content["annotations"][0] |= changes
        self.path.write_text(content if isinstance(content, str) else json.dumps(content))
        return load_annotations(self.path, need_masks=True)

    def second(self, **changes):
        """The good object, and another one."""
        content = base()
        content["annotations"].append({**content["annotations"][0], "id": 10, "bbox": [40, 20, 20, 10], **changes})
        self.path.write_text(json.dumps(content))
        return load_annotations(self.path, need_masks=True)

    def write_images(self):
        for i in (100, 200):
            cv2.imwrite(str(self.path.parent / f"{i}.png"), np.full((60, 80, 3), i % 256, np.uint8))


@pytest.fixture
def file(tmp_path) -> File:
    return File(tmp_path)


def counted(annotations, words: str, identity: object) -> None:
    """The report holds this kind of thing, with the id."""
    report = annotations.report
    told = str(report)
    assert any(words in kind for kind in (*report.counts, told)), told
    assert str(identity) in told


def test_01_an_image_without_annotations_is_kept(file):
    annotations = file.load()
    assert annotations.counts().tolist() == [1, 0]
    file.write_images()
    batch = collate([CocoDataset(annotations, file.path.parent, masks=True)[i] for i in (0, 1)])
    assert (batch.targets.labels[1] == -1).all()


def test_02_an_image_with_only_crowds_has_no_positive_and_no_negative_there(file):
    rle = {"size": [60, 80], "counts": [0, 4800]}
    annotations = file.load(iscrowd=1, segmentation=rle, bbox=[0, 0, 80, 60])
    assert annotations.crowd(0).tolist() == [True]
    boxes, crowd = torch.from_numpy(annotations.boxes(0))[None], torch.from_numpy(annotations.crowd(0))[None]
    _, label = match(boxes, crowd, torch.tensor([[5.0, 5, 25, 25]]), 0.3, 0.7, keep_best=True)
    assert label.tolist() == [[IGNORE]]


def test_03_a_file_without_annotations_has_nothing_to_find(file):
    content = base() | {"annotations": []}
    file.path.write_text(json.dumps(content))
    annotations = load_annotations(file.path)
    assert annotations.num_objects == 0
    evaluator = CocoEvaluator(annotations.to_coco(), ["bbox"], image_ids="all")
    assert math.isnan(evaluator.evaluate()["bbox/AP"])


@pytest.mark.parametrize("box", [[40, 20, 0, 10], [40, 20, 20, 0]])
def test_04_a_box_without_area(file, box):
    annotations = file.second(bbox=box)
    counted(annotations, "without area (dropped)", 10)
    assert annotations.num_objects == 1


def test_05_a_negative_width(file):
    counted(file.second(bbox=[40, 20, -5, 10]), "without area (dropped)", 10)


@pytest.mark.parametrize("box", [[math.nan, 20, 5, 5], [40, 20, math.nan, 5]])
def test_06_a_box_that_is_no_number(file, box):
    counted(file.second(bbox=box), "NaN or infinite numbers (dropped)", 10)


@pytest.mark.parametrize("box", [[math.inf, 20, 5, 5], [40, 20, math.inf, 5], [40, 1e308, 5, 1e308]])
def test_07_an_infinite_box(file, box):
    annotations = file.second(bbox=box)
    counted(annotations, "(dropped)", 10)
    assert annotations.num_objects == 1


def test_08_a_box_partly_outside_is_cut(file):
    annotations = file.second(bbox=[70, 50, 20, 20])
    counted(annotations, "reach over their image (cut)", 10)
    assert annotations.boxes(0)[1].tolist() == [70, 50, 80, 60]


def test_09_a_box_outside(file):
    counted(file.second(bbox=[100, 100, 20, 20]), "outside their image (dropped)", 10)


def test_10_a_box_of_a_thousandth_of_a_pixel(file):
    counted(file.second(bbox=[40, 20, 1e-3, 10]), "with a side under", 10)


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, 4, 5], ["1", 2, 3, 4], None, [], [1, 2, None, 4], "1 2 3 4"])
def test_11_what_is_no_box(file, box):
    with pytest.raises(ValueError, match=r"coco\.json: annotation 10 has bbox .*; it must be four numbers"):
        file.second(bbox=box, segmentation=[])


def test_12_category_ids_of_any_kind(file):
    content = base()
    content["categories"] = [{"id": 0, "name": "cat"}, {"id": 90, "name": "dog"}, {"id": 17, "name": "cow"}]
    content["annotations"][0]["category_id"] = 90
    annotations = file.load(content)
    assert sorted(annotations.categories.ids) == [0, 17, 90]
    label = int(annotations.labels(0)[0])
    assert annotations.categories.ids[label] == 90
    assert annotations.to_coco()["annotations"][0]["category_id"] == 90


def test_13_an_unknown_category(file):
    with pytest.raises(ValueError, match=r"category_id that is not in categories: 10 \(category 55\)"):
        file.second(category_id=55)


def test_14_other_categories_in_another_split(file, tmp_path):
    other = File(tmp_path / "other")
    other.path.parent.mkdir()
    content = base()
    content["categories"][1]["name"] = "horse"
    with pytest.raises(ValueError, match=r"(?s)dog.*horse|horse.*dog"):
        check_same_categories(file.load(), other.load(content))


def test_15_a_category_name_twice(file):
    content = base()
    content["categories"][1]["name"] = "cat"
    counted(file.load(content), "category names that occur twice", "cat")


@pytest.mark.parametrize("engine", ["pycocotools", "hotcoco"])
def test_16_annotation_id_zero(file, engine):
    if engine == "hotcoco":
        pytest.importorskip("hotcoco")
    truth = file.load(id=0).to_coco()
    assert perfect(truth, engine) == 1.0


@pytest.mark.parametrize("engine", ["pycocotools", "hotcoco"])
def test_17_annotation_ids_twice(file, engine):
    if engine == "hotcoco":
        pytest.importorskip("hotcoco")
    annotations = file.second(id=9)
    counted(annotations, "annotation ids that occur twice (renumbered)", 9)
    assert perfect(annotations.to_coco(), engine) == 1.0


def perfect(truth: dict, engine) -> float:
    """The AP of detections that are the truth."""
    evaluator = CocoEvaluator(truth, ["bbox"], engine, "all")
    evaluator.add_results(
        [
            {
                "image_id": a["image_id"],
                "category_id": a["category_id"],
                "bbox": list(map(float, a["bbox"])),
                "score": 1.0,
            }
            for a in truth["annotations"]
        ]
    )
    return round(evaluator.evaluate()["bbox/AP"], 6)


def test_18_image_ids_twice(file):
    content = base()
    content["images"][1]["id"] = 100
    with pytest.raises(ValueError, match="image id 100 occurs twice; give each image its own"):
        file.load(content)


def test_19_one_file_under_two_ids(file):
    content = base()
    content["images"][1]["file_name"] = "100.png"
    counted(file.load(content), "same file as an earlier image id", 200)


def test_20_an_annotation_of_no_image(file):
    counted(file.second(image_id=999), "of an image that is not listed (dropped)", 10)


@pytest.mark.parametrize(
    ("number", "missing"), [(21, "area"), (22, "iscrowd"), (23, "bbox")], ids=["21_area", "22_iscrowd", "23_bbox"]
)
def test_21_22_23_what_can_be_computed_may_be_missing(file, number, missing):
    content = base()
    del content["annotations"][0][missing]
    annotations = file.load(content)
    assert annotations.boxes(0)[0].tolist() == [10, 20, 30, 30]
    assert annotations.crowd(0).tolist() == [False]
    assert annotations.to_coco()["annotations"][0]["area"] == pytest.approx(200)


@pytest.mark.parametrize("nothing", [[], {}])
def test_24_an_object_without_a_mask(file, nothing):
    annotations = file.second(segmentation=nothing)
    counted(annotations, "objects without a mask (not learned by the mask head)", 10)
    file.write_images()
    sample = CocoDataset(annotations, file.path.parent, masks=True)[0]
    assert set(np.unique(sample.masks[1])) == {255}
    assert set(np.unique(sample.masks[0])) <= {0, 1}


@pytest.mark.parametrize("polygon", [[10, 20, 30, 20], [10, 20, 30, 20, 30], [10, 20, 30, 20, 30, 30, 10]])
def test_25_a_polygon_of_too_few_or_odd_numbers(file, polygon):
    counted(file.second(segmentation=[polygon]), "under three points, an odd length, NaN or huge numbers (dropped)", 10)


def test_25_a_polygon_on_a_line(file):
    counted(file.second(segmentation=[[40, 20, 50, 25, 60, 30]]), "points lie on one line", 10)


def test_25_a_bow_tie_is_no_line(file):
    bow_tie = [[40, 20, 60, 30, 60, 20, 40, 30]]  # its halves have opposite areas
    assert not file.second(segmentation=bow_tie).report
    assert not file.second(segmentation=[[40, 20, 41, 24, 39, 28, 40.5, 28]]).report  # one that is higher than wide
    counted(file.second(segmentation=[*bow_tie, [40, 20, 50, 25, 60, 30]]), "points lie on one line", 10)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e8])
def test_26_a_polygon_that_leads_nowhere(file, value):
    counted(file.second(segmentation=[[40, 20, 60, 20, value, 30]]), "NaN or huge numbers (dropped)", 10)


def test_27_a_polygon_that_is_not_in_a_list(file):
    annotations = file.second(segmentation=[40, 20, 60, 20, 60, 30])
    counted(annotations, "polygons that are not in a list (taken as one)", 10)
    assert annotations.segmentation(0, 1)[0].tolist() == [[40, 20], [60, 20], [60, 30]]


def test_27_a_polygon_of_pairs(file):
    annotations = file.second(segmentation=[[[40, 20], [60, 20], [60, 30]]])
    assert annotations.segmentation(0, 1)[0].tolist() == [[40, 20], [60, 20], [60, 30]]


def test_28_a_polygon_far_from_its_box(file):
    counted(file.second(segmentation=[[40, 20, 60, 20, 900, 30]]), "polygons far outside their box", 10)


def test_29_an_uncompressed_rle(file):
    bitmap = np.zeros((60, 80), np.uint8)
    bitmap[20:30, 40:60] = 1
    columns = bitmap.ravel(order="F")
    ends = np.flatnonzero(np.diff(columns)) + 1
    counts = np.diff([0, *ends, columns.size]).tolist()
    rle = {"size": [60, 80], "counts": counts}
    for given in (rle, [rle]):
        assert np.array_equal(coco_mask.decode(file.second(segmentation=given).segmentation(0, 1)), bitmap)


@pytest.mark.parametrize("size", [[80, 60], [61, 80], [600, 800], None, "60 80"])
def test_30_an_rle_of_another_size(file, size):
    with pytest.raises(ValueError, match=r"annotation 10 has an RLE of size .*but its image is \[60, 80\]"):
        file.second(segmentation={"size": size, "counts": [0, 4800]})


@pytest.mark.parametrize("counts", [[100, 200], [4801], "abc", "0", "", "ü", [-5, 4805], [1e300], None, [[1]]])
def test_31_an_rle_that_is_cut_or_garbage(file, counts):
    with pytest.raises(ValueError, match="annotation 10 has a broken RLE"):
        file.second(segmentation={"size": [60, 80], "counts": counts})


def test_32_an_rle_of_ten_gigapixels_is_refused_before_it_is_drawn(file):
    content = base()
    content["images"][1] |= {"height": 100_000, "width": 100_000}
    with pytest.raises(ValueError, match="image 200 is 100000 x 100000, more than"):
        file.load(content)
    with pytest.raises(ValueError, match=r"annotation 10 has an RLE of size \[100000, 100000\]"):
        file.second(segmentation={"size": [100_000, 100_000], "counts": [0, 10**10]})


def test_33_ids_that_are_words_or_very_large(file):
    content = base()
    large = 2**53 + 1
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = large
    annotations = file.load(content)
    assert annotations.image_ids[0] == large
    content = base()
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = "first"
    annotations = file.load(content)
    assert annotations.counts().tolist() == [1, 0]
    counted(annotations, "image ids that are text", "first")
    content = base()
    content["annotations"][0]["image_id"] = "100"
    assert file.load(content).counts().tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "not valid JSON"),
        ("[]", "contains a list, but a COCO file"),
        ('{"images": [], "images": [], "annotations": [], "categories": []}', "'images' occurs twice"),
        ('{"images": [{"id": 1, "id": 2}], "annotations": [], "categories": []}', "'id' occurs twice"),
        ("<html></html>", "not valid JSON"),
        ("", "not valid JSON"),
        ('{"images": {}, "annotations": [], "categories": []}', "has no list 'images'"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_34_what_is_no_coco_file(file, text, message):
    file.path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_annotations(file.path)
    assert "coco.json" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_34_a_byte_order_mark(file):
    file.path.write_bytes(b"\xef\xbb\xbf" + json.dumps(base()).encode())
    assert load_annotations(file.path).num_objects == 1


def test_35_five_thousand_objects_in_an_image(file):
    content = base()
    generator = np.random.default_rng(0)
    corners = generator.uniform([0, 0], [70, 50], (5000, 2)).round(2)
    content["annotations"] = [
        {"id": k, "image_id": 100, "category_id": 3, "bbox": [*corner, 5.0, 5.0]}
        for k, corner in enumerate(corners.tolist())
    ]
    file.path.write_text(json.dumps(content))
    file.write_images()
    annotations = load_annotations(file.path)
    sample = CocoDataset(annotations, file.path.parent, masks=True)[0]
    batch = collate([sample])
    assert int((batch.targets.labels >= 0).sum()) == 5000
    assert perfect(annotations.to_coco(), "auto") >= 0  # 100 of them count

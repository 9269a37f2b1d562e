"""Repaired and rejected ground truths."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.coco.annotations import load_annotations
from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.ground_truth import clean_ground_truth

POLYGON = [[2.0, 2.0, 12.0, 2.0, 12.0, 7.0, 2.0, 7.0]]  # 10 x 5 pixels


def coco(**changes: Any) -> dict[str, Any]:
    annotation = {"id": 1, "image_id": 4, "category_id": 9, "bbox": [2, 2, 10, 5], "area": 50, "iscrowd": 0}
    annotation["segmentation"] = POLYGON
    annotation |= changes
    annotation = {key: value for key, value in annotation.items() if value is not None}
    return {
        "images": [{"id": 4, "height": 20, "width": 30, "file_name": "a.jpg"}],
        "categories": [{"id": 9, "name": "cat"}],
        "annotations": [annotation],
    }


def only(truth: dict[str, Any], masks: bool = True) -> dict[str, Any]:
    (annotation,) = clean_ground_truth(truth, masks)["annotations"]
    return annotation


def test_ids_are_renumbered_and_the_input_is_left_alone() -> None:
    truth = coco(id=0)
    truth["annotations"] *= 3
    before = copy.deepcopy(truth)
    assert [a["id"] for a in clean_ground_truth(truth, masks=True)["annotations"]] == [1, 2, 3]
    assert truth == before


def test_missing_fields_are_computed() -> None:
    assert only(coco(iscrowd=None))["iscrowd"] == 0
    assert only(coco(area=None))["area"] == 50  # of the mask
    assert only(coco(bbox=None))["bbox"] == [2, 2, 10, 5]
    assert only(coco(area=None, segmentation=None), masks=False)["area"] == 50  # of the box
    empty = {"size": [20, 30], "counts": [600]}
    assert only(coco(bbox=None, segmentation=empty), masks=False)["bbox"] == [0, 0, 0, 0]


@pytest.mark.parametrize("key", ["iscrowd", "area", "bbox"])
@pytest.mark.parametrize("masks", [True, False])
def test_null_is_the_same_as_missing(key: str, masks: bool) -> None:
    missing = coco(**{key: None})
    null = copy.deepcopy(missing)
    null["annotations"][0][key] = None
    assert only(null, masks) == only(missing, masks)


def test_every_form_of_segmentation() -> None:
    runs = [40, 5, 555]
    assert only(coco(segmentation={"size": [20, 30], "counts": runs}))["segmentation"]["counts"] == runs
    assert only(coco(segmentation=POLYGON[0]))["segmentation"] == POLYGON  # flat
    assert only(coco(segmentation=[np.array(POLYGON[0]).reshape(4, 2)]))["segmentation"] == POLYGON


def test_ids_that_are_digits_or_floats_are_numbers() -> None:
    truth = coco(image_id="4", category_id="9")
    truth["images"][0]["id"], truth["categories"][0]["id"] = "4", 9.0
    clean = clean_ground_truth(truth, masks=True)
    assert clean == clean_ground_truth(coco(), masks=True)
    ids = [clean["images"][0]["id"], clean["categories"][0]["id"], clean["annotations"][0]["image_id"]]
    assert [(type(id), id) for id in ids] == [(int, 4), (int, 9), (int, 4)]


def test_an_empty_polygon_is_none() -> None:
    assert only(coco(segmentation=[[], *POLYGON]))["segmentation"] == POLYGON
    assert only(coco(segmentation=[[]], area=None), masks=False)["area"] == 50  # of the box
    with pytest.warns(UserWarning, match="1 object without a mask"):
        assert clean_ground_truth(coco(segmentation=[[]]), masks=True)["annotations"] == []


def test_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="1 object without a mask"):
        assert clean_ground_truth(coco(segmentation=None), masks=True)["annotations"] == []
    for image_id in (5, "a", None):
        with pytest.warns(UserWarning, match=r"1 annotation of an image that is not listed \(dropped\): 1"):
            assert clean_ground_truth(coco(image_id=image_id), masks=False)["annotations"] == []


@pytest.mark.parametrize(("ignore", "crowd"), [(1, 1), (True, 1), ("1", 1), (0, 0), (False, 0), ("partly", 0)])
def test_what_is_ignored_counts_as_a_crowd_as_in_training(ignore: Any, crowd: int) -> None:
    truth = coco(ignore=ignore)
    truth["annotations"].append(truth["annotations"][0] | {"ignore": 0, "id": 2})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clean = clean_ground_truth(truth, masks=False)
    assert [a["iscrowd"] for a in clean["annotations"]] == [crowd, 0]
    told = {0: [], 1: ["1 object with ignore 1 (taken as a crowd"]}[crowd]
    told += ["1 object whose ignore is neither 0 nor 1 (not followed)"] if ignore == "partly" else []
    assert all(f"ground truth: {line}" in str(one.message) for one, line in zip(caught, told, strict=True))


def test_crowds_alone_cannot_be_scored() -> None:
    with pytest.warns(UserWarning, match="the only object is a crowd: nothing can be scored, AP is n/a"):
        clean_ground_truth(coco(iscrowd=1), masks=True)


def test_images_alone_have_nothing_to_score_against() -> None:
    truth = coco()
    del truth["annotations"]
    with pytest.raises(ValueError, match="has no list 'annotations'; add it: training and evaluation need"):
        clean_ground_truth(truth, masks=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category_id": 3}, r"category_id that is not in categories: 1 \(category 3\)"),
        ({"category_id": 9.5}, r"category_id that is not in categories: 1 \(category 9.5\)"),
        ({"category_id": None}, r"category_id that is not in categories: 1 \(category None\)"),
        ({"iscrowd": "no"}, "annotation 1 has iscrowd 'no'; it must be 0 or 1"),
        ({"iscrowd": 2}, "annotation 1 has iscrowd 2; it must be 0 or 1"),
        ({"bbox": "wide"}, "annotation 1 has bbox 'wide'; it must be four numbers"),
        ({"area": "wide"}, "annotation 1 has area 'wide'; write a number"),
        ({"area": 10**400}, "annotation 1 has area 1000.*; write a number"),
        (
            {"bbox": [1, 2, float("nan"), 4]},
            "annotation 1 has boxes with NaN or infinite numbers; correct or remove it",
        ),
        ({"bbox": [1, 2, -1, 4]}, "annotation 1 has boxes of negative size; correct or remove it"),
        ({"bbox": [1, 2, 3]}, "annotation 1 has bbox .1.0, 2.0, 3.0.; it must be four numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "annotation 1 has bbox .*; it must be four numbers"),
        ({"bbox": None, "segmentation": None}, "annotation 1 has neither bbox nor segmentation"),
        ({"area": float("inf")}, "annotation 1 has area inf; write a number"),
        ({"segmentation": [[1, 2, 3, 4]]}, "annotation 1 has polygons with under three points"),
        (
            {"segmentation": [[1, 2, 3, 4, 5, float("nan")]]},
            "polygons with under three points, an odd length, NaN or huge numbers;",
        ),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e8]]}, "NaN or huge numbers; correct or remove it"),
        ({"segmentation": {"size": [30, 20], "counts": [600]}}, r"RLE of size \[30, 20\]"),
        ({"segmentation": {"size": [20, 30], "counts": [40, 5]}}, "sum to 45"),
        ({"segmentation": {"size": [20, 30], "counts": "1"}}, "annotation 1 has a broken RLE"),
        ({"segmentation": {"size": [20, 30]}}, "annotation 1 has a broken RLE"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    masks = not ("segmentation" in changes and changes["segmentation"] is None)
    with pytest.raises(ValueError, match=message):
        clean_ground_truth(coco(**changes), masks=masks)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("annotations", None, "has no list 'annotations'; add it: training and evaluation need"),
        ("images", None, "has no list 'images'; add it: a COCO file has the lists images, annotations and categories"),
        (
            "categories",
            {},
            "has no list 'categories'; categories is of type dict; write a list, or .* if there are none",
        ),
        ("annotations", [[1]], r"annotations\[0\] is '\[1\]', not an object; remove or correct it"),
        ("annotations", ["cat"], r"annotations\[0\] is 'cat', not an object"),
        ("images", [4], r"images\[0\] is '4', not an object"),
        ("categories", ["cat"], r"categories\[0\] is 'cat', not an object"),
        ("categories", [{"id": 9, "name": "cat"}, {"id": "9", "name": "dog"}], "category id 9 occurs twice"),
    ],
)
def test_lists_and_entries_of_another_form_are_refused(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(coco() | {key: value}))
    with pytest.raises(ValueError, match=rf"truth\.json: {message}"):
        clean_ground_truth(path, masks=False)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(coco()))
    assert clean_ground_truth(path, masks=True) == clean_ground_truth(coco(), masks=True)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"truth\.json"):
        clean_ground_truth(path, masks=True)
    path.write_text("[]")
    with pytest.raises(ValueError, match="a COCO file is an object with the lists images"):
        clean_ground_truth(path, masks=True)
    truth = coco()
    truth["images"][0]["id"] = None
    path.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=r"truth\.json: image .* has no valid id; add an integer id"):
        clean_ground_truth(path, masks=True)
    truth = coco()
    del truth["categories"][0]["name"]
    path.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=r"truth\.json: category .* has no valid name"):
        clean_ground_truth(path, masks=True)
    truth = coco()
    truth["images"] *= 2
    with pytest.raises(ValueError, match="image id 4 occurs twice; give each image its own"):
        clean_ground_truth(truth, masks=True)


def test_ids_are_read_by_the_rule_of_training() -> None:
    truth = coco(image_id="first")
    truth["images"] = [truth["images"][0] | {"id": name} for name in ("second", "first")]
    with pytest.warns(UserWarning, match=r"2 image ids that are text or beyond 64 bits \(all numbered from 1"):
        clean = clean_ground_truth(truth, masks=False)
    assert [image["id"] for image in clean["images"]] == [1, 2]
    assert clean["annotations"][0]["image_id"] == 2
    assert only(coco(image_id=np.int64(4)), masks=False)["image_id"] == 4
    truth = coco(image_id=-1)
    truth["images"][0]["id"] = -1  # padding in a batch, but an id like any other in a result file
    assert only(truth)["image_id"] == -1


def test_a_missing_box_is_the_one_of_training(tmp_path: Path) -> None:
    truth = coco(bbox=None, segmentation=[[2.3, 2.6, 12.4, 2.6, 12.4, 7.1]])
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    assert only(truth)["bbox"] == load_annotations(path).to_coco()["annotations"][0]["bbox"]
    assert only(truth)["bbox"] == pytest.approx([2.3, 2.6, 10.1, 4.5])


@pytest.mark.parametrize("far", [999_999.0, -999_999.0])
def test_one_limit_of_coordinates_for_training_and_evaluation(tmp_path: Path, far: float) -> None:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(coco(segmentation=[[2, 2, 12, 2, far, 7]])))
    assert only(coco(segmentation=[[2, 2, 12, 2, far, 7]]))["segmentation"] == [[2, 2, 12, 2, far, 7]]
    assert load_annotations(path).segmentation(0, 0)[0].max() == max(far, 12)
    beyond = coco(segmentation=[[2, 2, 12, 2, far * 1.00001, 7]])
    path.write_text(json.dumps(beyond))
    assert load_annotations(path).segmentation(0, 0) is None
    with pytest.raises(ValueError, match="annotation 1 has polygons"):
        clean_ground_truth(beyond, masks=True)


def test_an_outline_that_goes_to_and_fro_takes_no_memory() -> None:
    polygon = [0.0, 0.0, 9e5, 0.0] * 1000  # pycocotools would walk along 1.8e9 pixels
    with pytest.raises(ValueError, match="annotation 1 has polygons"):
        clean_ground_truth(coco(segmentation=[polygon]), masks=True)


def test_two_crowds_are_counted_and_one_is_not() -> None:
    truth = coco(iscrowd=1)
    truth["annotations"].append(truth["annotations"][0] | {"id": 2})
    with pytest.warns(UserWarning, match="all 2 objects are crowds: nothing can be scored"):
        clean_ground_truth(truth, masks=True)


@pytest.mark.parametrize(("given", "kept"), [("20", 20), ("1", 1), ("0", "0"), (str(2**63 - 1), 2**63 - 1)])
def test_sides_become_whole_numbers_where_they_are_some(given: str, kept: Any) -> None:
    truth = coco()
    truth["images"][0]["width"] = given
    assert clean_ground_truth(truth, masks=False)["images"][0]["width"] == kept


def test_a_side_beyond_64_bits_stays_as_it_is() -> None:
    truth = coco()
    truth["images"][0]["width"] = str(2**63)
    assert clean_ground_truth(truth, masks=False)["images"][0]["width"] == str(2**63)


@pytest.mark.parametrize(("number", "what"), [(1, "the only object is a crowd"), (3, "all 3 objects are crowds")])
def test_crowds_alone_are_told(number: int, what: str) -> None:
    truth = coco(iscrowd=1)
    truth["annotations"] = [truth["annotations"][0] | {"id": k} for k in range(number)]
    with pytest.warns(UserWarning, match="nothing can be scored") as caught:
        clean_ground_truth(truth, masks=False)
    assert str(caught[-1].message) == (
        f"ground truth: {what}: nothing can be scored, AP is n/a (-1 in pycocotools); set iscrowd to 0 where an "
        "annotation is one object"
    )
    truth["annotations"].append(truth["annotations"][0] | {"id": 9, "iscrowd": 0})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clean_ground_truth(truth, masks=False)
    assert not any("nothing can be scored" in str(one.message) for one in caught)


@pytest.mark.parametrize("area", ["x" * 99, float("nan"), float("inf"), 10**400, [5]])
def test_an_area_is_a_finite_number(area: Any) -> None:
    with pytest.raises(ValueError, match="annotation 1 has area") as caught:
        clean_ground_truth(coco(area=area), masks=False)
    assert f"has area {ascii(area)[:40]}; write a number, or remove the key" in str(caught.value)


@pytest.mark.parametrize("side", [2, 3])
def test_a_box_may_be_empty_but_not_negative(side: int) -> None:
    box = [2.0, 2, 10, 5]
    box[side] = 0
    assert only(coco(bbox=box))["bbox"] == box
    box[side] = -0.5
    with pytest.raises(ValueError, match="annotation 1 has boxes of negative size; correct or remove it"):
        clean_ground_truth(coco(bbox=box), masks=True)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("20", 20), (20.0, 20), (1, 1), (0, 0), (2**63 - 1, 2**63 - 1), (2**63, 2**63), ("0", "0"), (-5, -5), ("x", "x")],
)
def test_sides_of_images_become_integers_if_they_are_positive(given: Any, kept: Any) -> None:
    truth = coco(segmentation=None)
    truth["images"][0]["height"] = given
    image = clean_ground_truth(truth, masks=False)["images"][0]
    assert image == {"id": 4, "height": kept, "width": 30, "file_name": "a.jpg"}


def test_ground_truth_without_a_box_and_without_a_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match="annotation 1 has neither bbox nor segmentation; add one, or remove"):
        clean_ground_truth(coco(bbox=None, segmentation=None), masks=False)


def test_several_objects_without_a_mask_are_counted() -> None:
    truth = coco(segmentation=None)
    truth["annotations"].append(truth["annotations"][0] | {"id": 2})
    with pytest.warns(UserWarning, match=r"2 objects without a mask \(not in the segm scores\)"):
        assert clean_ground_truth(truth, masks=True)["annotations"] == []


def test_a_warning_names_the_line_that_asks_for_a_score() -> None:
    crowd = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": 1}
    truth = {
        "images": [{"id": 1, "height": 9, "width": 9}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [crowd],
    }
    with pytest.warns(UserWarning, match="the only object is a crowd") as told:
        CocoEvaluator(truth, ["bbox"])
    assert [one.filename for one in told] == [__file__]

import json
import pickle

import numpy as np
import pytest
from pycocotools.coco import COCO

from detection.categories import Categories
from detection.coco.annotations import TWICE, check_same_categories, load_annotations


def test_labels_follow_the_category_ids_and_boxes_are_corners(small):
    annotations = load_annotations(small, need_masks=True)
    assert annotations.categories.names == ("square", "ring")
    assert annotations.categories.ids == (3, 7)
    assert annotations.boxes(0)[0].tolist() == [10, 20, 30, 30]
    assert annotations.labels(0).tolist() == [0, 1]
    assert annotations.crowd(1).tolist() == [True]
    assert annotations.sizes.tolist() == [[60, 80], [90, 40], [64, 64], [50, 70]]
    assert annotations.file_name(2) == "2.png"
    assert not annotations.report


def test_images_without_objects_are_kept(small):
    annotations = load_annotations(small)
    assert annotations.counts().tolist() == [2, 1, 1, 0]
    assert annotations.boxes(3).shape == (0, 4)


def test_segmentations_come_back_as_they_were(small):
    annotations = load_annotations(small)
    (polygon,) = annotations.segmentation(0, 0)
    assert polygon.tolist() == [[10, 20], [30, 20], [30, 30], [10, 30]]
    given = json.loads(small.read_text())["annotations"][1]["segmentation"]
    assert annotations.segmentation(0, 1) == {"size": [60, 80], "counts": given["counts"].encode()}
    assert isinstance(annotations.segmentation(1, 0)["counts"], bytes)  # the crowd's was not compressed


def test_the_ground_truth_is_what_pycocotools_reads(small, tmp_path):
    path = tmp_path / "again.json"
    path.write_text(json.dumps(load_annotations(small).to_coco()))
    ours, theirs = COCO(str(path)), COCO(str(small))
    for again, before in zip(ours.anns.values(), theirs.anns.values(), strict=True):
        assert again["bbox"] == pytest.approx(before["bbox"])
        assert again["category_id"] == before["category_id"]
        assert np.array_equal(ours.annToMask(again), theirs.annToMask(before))
        assert again["area"] == before.get("area", theirs.annToMask(before).sum())


def test_pickling_carries_arrays_not_objects(small):
    again = pickle.loads(pickle.dumps(load_annotations(small)))
    assert again.boxes(0).tolist() == load_annotations(small).boxes(0).tolist()


def square(**changes):
    """The only annotation of a file: a good one, changed."""
    entry = {"id": 9, "image_id": 100, "category_id": 3, "bbox": [10, 20, 20, 10]}
    return [entry | changes]


@pytest.mark.parametrize(
    ("bbox", "kind"),
    [
        ([10, 20, 0, 10], "without area"),
        ([10, 20, -5, 10], "without area"),
        ([10, float("nan"), 5, 10], "NaN or infinite"),
        ([10, 20, float("inf"), 10], "NaN or infinite"),
        ([200, 20, 5, 10], "outside their image"),
        ([10, 20, 0.001, 10], "side under"),
    ],
)
def test_boxes_that_nothing_could_find_are_dropped_and_counted(write_dataset, tmp_path, bbox, kind):
    annotations = load_annotations(write_dataset(tmp_path, annotations=square(bbox=bbox)))
    assert annotations.num_objects == 0
    ((found, count),) = annotations.report.counts.items()
    assert kind in found
    assert count == 1
    assert annotations.report.ids[found] == [9]
    assert "9" in str(annotations.report)


def test_a_box_over_the_border_is_cut_for_training_and_kept_for_scoring(write_dataset, tmp_path):
    annotations = load_annotations(write_dataset(tmp_path, annotations=square(bbox=[70, 50, 30, 30])))
    assert annotations.boxes(0)[0].tolist() == [70, 50, 80, 60]
    assert annotations.to_coco()["annotations"][0]["bbox"] == [70, 50, 30, 30]
    assert list(annotations.report.counts.values()) == [1]


def test_a_missing_box_is_taken_from_the_mask(write_dataset, tmp_path):
    changes = {"bbox": None, "segmentation": [[10, 20, 30, 20, 30, 30]]}
    annotations = load_annotations(write_dataset(tmp_path, annotations=square(**changes)))
    assert annotations.boxes(0)[0].tolist() == [10, 20, 30, 30]


@pytest.mark.parametrize(
    "polygons", [[[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, float("nan"), 4, 5, 6]], [[1, 2, 1e8, 4, 5, 6]]]
)
def test_polygons_that_would_crash_pycocotools_are_dropped(write_dataset, tmp_path, polygons):
    annotations = load_annotations(write_dataset(tmp_path, annotations=square(segmentation=polygons)), need_masks=True)
    assert annotations.num_objects == 1
    assert annotations.segmentation(0, 0) is None
    assert sorted(annotations.report.counts.values()) == [1, 1]  # the polygon, and the object without a mask


def test_a_flat_polygon_is_taken_as_one(write_dataset, tmp_path):
    flat = square(segmentation=[10, 20, 30, 20, 30, 30])
    annotations = load_annotations(write_dataset(tmp_path, annotations=flat))
    assert len(annotations.segmentation(0, 0)) == 1
    assert "not in a list" in next(iter(annotations.report.counts))


PAIRS = [[10, 20], [30, 20], [30, 30], [10, 30]]


@pytest.mark.parametrize(
    "given", [[PAIRS], PAIRS, [{"size": [60, 80], "counts": [620, 10, *[50, 10] * 19, 3030]}]], ids=str
)
def test_other_ways_to_write_a_mask_are_read(write_dataset, tmp_path, given):
    entry = {"id": 1, "image_id": 100, "category_id": 3, "segmentation": given}
    annotations = load_annotations(write_dataset(tmp_path, annotations=[entry]), need_masks=True)
    assert annotations.boxes(0).tolist() == [[10, 20, 30, 30]]
    assert annotations.to_coco()["annotations"][0]["area"] == 200
    told = str(annotations.report)
    assert told == f"{annotations.path}:" or (given is PAIRS and "not in a list (taken as one)" in told)


def test_numbers_of_a_polygon_may_be_text(write_dataset, tmp_path):
    text = square(segmentation=[["10", 20, "30.5", 20, 30, 30]])
    annotations = load_annotations(write_dataset(tmp_path, annotations=text))
    assert annotations.segmentation(0, 0)[0].tolist() == [[10, 20], [30.5, 20], [30, 30]]
    words = load_annotations(write_dataset(tmp_path, annotations=square(segmentation=[["a", 20, 30, 20, 30, 30]])))
    assert words.segmentation(0, 0) is None


def test_an_empty_segmentation_is_none(write_dataset, tmp_path):
    entry = {"id": 1, "image_id": 100, "category_id": 3, "bbox": [10, 20, 20, 10], "segmentation": {}}
    annotations = load_annotations(write_dataset(tmp_path, annotations=[entry]), need_masks=True)
    assert annotations.segmentation(0, 0) is None
    assert "1 object without a mask" in str(annotations.report)


def test_rles_that_share_a_list_are_told_as_such(write_dataset, tmp_path):
    rle = {"size": [60, 80], "counts": [0, 4800]}
    entry = {"id": 1, "image_id": 100, "category_id": 3, "bbox": [10, 20, 20, 10], "segmentation": [rle, rle]}
    annotations = load_annotations(write_dataset(tmp_path, annotations=[entry]))
    assert "2 RLEs that share a list with others (dropped): 1, 1" in str(annotations.report)


def test_sizes_may_be_whole_floats_or_digits(write_dataset, tmp_path):
    image = {"id": 100, "file_name": "0.png"}
    for height, width in ((60.0, 80.0), ("60", "80")):
        path = write_dataset(tmp_path, images=[{**image, "height": height, "width": width}], annotations=[])
        assert load_annotations(path).sizes.tolist() == [[60, 80]]
    for height in (60.5, "60.5", True, "", None, float("inf"), "-60", 0):
        path = write_dataset(tmp_path, images=[{**image, "height": height, "width": 80}], annotations=[])
        with pytest.raises(ValueError, match=r"image 100 has height .*; it must be a positive integer"):
            load_annotations(path)


def test_ids_that_occur_twice_or_are_zero_are_numbered_anew(write_dataset, tmp_path):
    twice = [*square(id=0), *square(id=0, bbox=[40, 20, 20, 10])]
    annotations = load_annotations(write_dataset(tmp_path, annotations=twice))
    assert [entry["id"] for entry in annotations.to_coco()["annotations"]] == [1, 2]
    assert sum(annotations.report.counts.values()) == 1


def test_an_annotation_of_no_image_is_dropped(write_dataset, tmp_path):
    annotations = load_annotations(write_dataset(tmp_path, annotations=square(image_id=5)))
    assert annotations.num_objects == 0
    assert "not listed" in next(iter(annotations.report.counts))


IMAGE = {"id": 1, "file_name": "a.png", "height": 4, "width": 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": square(category_id=99)}, r"9 \(category 99\)"),
        ({"annotations": square(bbox=[1, 2, 3])}, "annotation 9 has bbox .* four numbers"),
        ({"annotations": square(bbox=["1", 2, 3, 4])}, "annotation 9 has bbox .* four numbers"),
        (
            {"annotations": square(segmentation={"size": [6, 8], "counts": [48]})},
            r"size \[6, 8\], but its image is \[60",
        ),
        ({"annotations": square(segmentation={"size": [60, 80], "counts": [7]})}, "annotation 9 has a broken RLE"),
        ({"annotations": square(segmentation={"size": [60, 80], "counts": "garbage"})}, "broken RLE"),
        ({"annotations": square(segmentation={"size": [10**5, 10**5], "counts": [10**10]})}, "has an RLE of size"),
        ({"annotations": [3]}, r"annotations\[0\] is '3'"),
        ({"categories": []}, "categories is empty"),
        (
            {"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]},
            "category id 3 occurs twice",
        ),
        ({"images": [IMAGE, IMAGE]}, "image id 1 occurs twice"),
        ({"images": [IMAGE | {"height": 0}]}, "image 1 has height 0"),
        ({"images": [IMAGE | {"file_name": None}]}, "image 1 has no file_name"),
        ({"images": 3}, "no list 'images'"),
    ],
)
def test_what_cannot_be_mended_is_refused_by_name(write_dataset, tmp_path, changes, message):
    path = write_dataset(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_annotations(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not valid JSON"), (b"[]", "contains a list"), (b"\xff\xfe", "not valid JSON"), (b"", "not valid JSON")],
)
def test_files_that_are_no_coco_files_are_refused(tmp_path, content, message):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_annotations(path)
    with pytest.raises(ValueError, match="no such annotation file"):
        load_annotations(tmp_path / "none.json")


@pytest.mark.parametrize("absent", [["annotations"], ["categories"], ["annotations", "categories"]])
@pytest.mark.parametrize("null", [False, True])
def test_a_file_to_predict_may_list_images_alone(small, tmp_path, absent, null):
    content = json.loads(small.read_text())
    for key in absent:
        del content[key]
        if null:
            content[key] = None
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps(content))
    known = Categories(("square", "ring"), (3, 7))
    annotations = load_annotations(path, known=lambda: known)
    assert len(annotations) == 4
    assert annotations.categories == known
    assert annotations.annotated == ("annotations" not in absent)
    assert annotations.num_objects == (0 if "annotations" in absent else 4)
    with pytest.raises(ValueError, match=f"has no list {absent[0]!r}"):
        load_annotations(path)


def test_a_file_without_annotations_is_rejected_where_they_are_needed(small, tmp_path):
    content = json.loads(small.read_text())
    del content["annotations"]
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="training and evaluation need annotations"):
        load_annotations(path)
    path.write_text(json.dumps(content | {"images": None}))
    with pytest.raises(ValueError, match="has no list 'images'"):
        load_annotations(path, known=lambda: Categories((), ()))


@pytest.mark.parametrize("value", [2, -1, "no", [], 0.5])
def test_an_iscrowd_that_is_neither_0_nor_1_is_rejected(write_dataset, tmp_path, value):
    with pytest.raises(ValueError, match=r"annotation 9 has iscrowd .*; it must be 0 or 1"):
        load_annotations(write_dataset(tmp_path, annotations=square(iscrowd=value)))


def test_a_byte_order_mark_is_no_obstacle(small, tmp_path):
    path = tmp_path / "bom.json"
    path.write_bytes(b"\xef\xbb\xbf" + small.read_bytes())
    assert len(load_annotations(path)) == 4


def test_real_data_loads_without_a_word(shared_data):
    annotations = load_annotations(shared_data / "coco_mini/annotations/instances_val2017.json", need_masks=True)
    assert len(annotations) == 100
    assert annotations.num_objects == 712
    assert not annotations.report


def test_an_image_may_have_a_side_of_one_pixel(write_dataset, tmp_path):
    image = {"id": 100, "file_name": "0.png", "height": 1, "width": "1"}
    annotations = load_annotations(write_dataset(tmp_path, images=[image], annotations=[]))
    assert annotations.sizes.tolist() == [[1, 1]]


def test_object_ids_are_the_file_s_if_they_are_64_bit_integers(write_dataset, tmp_path):
    given = [5, "17", 2.0, "x", 2**63 - 1, 2**63, 1 - 2**63, -(2**63), None, "", 1.5, 0]
    entries = [square(id=one)[0] | {"bbox": [10, 20, 20 + k, 10]} for k, one in enumerate(given)]
    annotations = load_annotations(write_dataset(tmp_path, annotations=entries))
    assert annotations.object_ids.tolist() == [5, 17, 2, -1, 2**63 - 1, -1, 1 - 2**63, -1, -1, -1, -1, 0]


def test_objects_are_counted_by_image_and_class(write_dataset, tmp_path):
    entries = [
        {"id": k, "image_id": image, "category_id": category, "bbox": [1 + k, 2, 5, 6], "iscrowd": crowd}
        for k, (image, category, crowd) in enumerate([(102, 7, 0), (100, 3, 1), (100, 3, 0), (102, 3, 0), (103, 3, 1)])
    ]
    annotations = load_annotations(write_dataset(tmp_path, annotations=entries))
    assert [annotations.counts(crowd).tolist() for crowd in (None, True, False)] == [
        [2, 0, 2, 1], [1, 0, 0, 1], [1, 0, 2, 0]
    ]  # fmt: skip
    assert [annotations.class_counts(crowd).tolist() for crowd in (None, True, False)] == [[4, 1], [2, 0], [2, 1]]
    assert (annotations.num_objects, annotations.num_crowds, annotations.has_masks) == (5, 2, False)
    assert annotations.object_ids.tolist() == [1, 2, 0, 3, 4]
    some = annotations.to_coco([2, 0])
    assert [image["id"] for image in some["images"]] == [102, 100]
    assert [(entry["id"], entry["image_id"], entry["category_id"]) for entry in some["annotations"]] == [
        (1, 102, 7), (2, 102, 3), (3, 100, 3), (4, 100, 3)
    ]  # fmt: skip
    assert [entry["iscrowd"] for entry in some["annotations"]] == [0, 0, 1, 0]


def test_only_masks_of_objects_count_as_masks(write_dataset, tmp_path):
    mask = {"segmentation": [[10, 20, 30, 20, 30, 30]]}
    assert load_annotations(write_dataset(tmp_path, annotations=square(**mask))).has_masks
    assert not load_annotations(write_dataset(tmp_path, annotations=square(**mask, iscrowd=1))).has_masks


def test_twins_are_named_by_their_ids(write_dataset, tmp_path):
    boxes = [[10, 20, 20, 10], [10, 20, 20, 10], [10, 20, 20, 10.1], [40, 20, 20, 10]]
    entries = [square(id=11 + k, bbox=box)[0] for k, box in enumerate(boxes)]
    annotations = load_annotations(write_dataset(tmp_path, annotations=entries))
    assert annotations.exact_twins() == [1]
    assert annotations.report.ids[TWICE] == [12]
    assert annotations.near_twins() == [(11, 13)]


@pytest.mark.parametrize("differences", [0, 1, 8, 9, 10])
def test_eight_different_categories_are_listed(write_dataset, tmp_path, differences):
    files = []
    for name in "ab":
        names = [f"{name if k < differences else 'same'}{k}" for k in range(12)]
        categories = [{"id": k, "name": one} for k, one in enumerate(names)]
        path = write_dataset(tmp_path / name, categories=categories, annotations=[])
        files.append(load_annotations(path))
    if not differences:
        check_same_categories(*files)
        return
    with pytest.raises(ValueError, match="have different categories; give both files the same list") as caught:
        check_same_categories(*files)
    lines = str(caught.value).splitlines()[1:]
    assert lines[: min(differences, 8)] == [f"  id {k}: 'a{k}' and 'b{k}'" for k in range(min(differences, 8))]
    assert lines[8:] == ([f"  and {differences - 8} more"] if differences > 8 else [])


def test_names_are_read_one_by_one(write_dataset, tmp_path):
    names = ["\u00e4.png", "b/c.png", "\u6f22\u5b57.png"]
    images = [{"id": k, "file_name": name, "height": 4, "width": 4} for k, name in enumerate(names)]
    annotations = load_annotations(write_dataset(tmp_path, images=images, annotations=[]))
    assert [annotations.file_name(k) for k in range(3)] == names


def test_boxes_are_cut_at_each_border(write_dataset, tmp_path):
    boxes = [[0, 0, 5, 6], [0.5, 0.25, 5, 6], [-3, 10, 10, 10], [10, -2, 10, 10], [70, 10, 20, 5], [10, 50, 5, 20]]
    entries = [square(id=k, bbox=box)[0] for k, box in enumerate(boxes)]
    annotations = load_annotations(write_dataset(tmp_path, annotations=entries))
    assert annotations.boxes(0).tolist() == [
        [0, 0, 5, 6], [0.5, 0.25, 5.5, 6.25], [0, 10, 7, 20], [10, 0, 20, 8], [70, 10, 80, 15], [10, 50, 15, 60]
    ]  # fmt: skip

import json

import pytest

from detection.coco.annotations import load_annotations
from detection.coco.crowds import check_learnable, crowd_classes, crowd_findings, described, plural

RLE = {"size": [60, 80], "counts": [1220, 10, 50, 10, 3510]}
POLYGON = [[10, 20, 30, 20, 30, 30, 10, 30]]


def entry(number, crowd=1, category=3, image=100, **fields):
    box = [10, 20, 20, 10 + number]
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd, **fields}


@pytest.fixture
def load(write_dataset, tmp_path):
    return lambda *entries, **options: load_annotations(write_dataset(tmp_path, annotations=list(entries)), **options)


def texts(annotations, train=True, severity="warning"):
    return [found.what for found in crowd_findings(annotations, train) if found.severity == severity]


def test_crowds_are_counted_apart_per_class_and_image(load):
    annotations = load(entry(1), entry(2, 0), entry(3, 0, 7), entry(4, 1, 7, 101), entry(5, 1, 7, 101))
    assert (annotations.num_objects, annotations.num_crowds) == (5, 3)
    assert annotations.class_counts(crowd=False).tolist() == [1, 1]  # square, ring
    assert annotations.class_counts(crowd=True).tolist() == [1, 2]
    assert annotations.class_counts().tolist() == [2, 3]
    assert annotations.counts(crowd=False).tolist() == [2, 0, 0, 0]
    assert annotations.counts(crowd=True).tolist() == [1, 2, 0, 0]
    assert annotations.counts().tolist() == [3, 2, 0, 0]
    assert annotations.object_ids.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("mask", [RLE, POLYGON, [RLE], []], ids=["brush", "polygon", "listed", "none"])
def test_crowds_alone_teach_nothing_whatever_their_mask(load, mask):
    annotations = load(*(entry(k, segmentation=mask) for k in (1, 2, 3)))
    with pytest.raises(ValueError, match=r"no usable object to train on; all 3 objects are crowds; .*set iscrowd to 0"):
        check_learnable(annotations)
    assert texts(annotations, True, "error") == ["all 3 objects are crowds: nothing can be learned"]
    assert "-1 in pycocotools" in texts(annotations, False, "error")[0]
    assert crowd_classes(annotations) == ["square"]


def test_what_the_key_ignore_made_a_crowd_gets_an_advice_about_it(load):
    with pytest.raises(ValueError, match="the only object is a crowd; the key ignore makes them crowds: remove it"):
        check_learnable(load(entry(1, 0, ignore=1)))
    with pytest.raises(
        ValueError, match=r"all 2 objects are crowds; annotation tools .*; the key ignore makes them crowds"
    ):
        check_learnable(load(entry(1, 0, ignore=1), entry(2)))


def test_a_file_without_objects_is_told_to_annotate_some(load):
    with pytest.raises(ValueError, match="no usable object to train on; annotate some"):
        check_learnable(load())


def test_boxes_that_are_fractions_teach_nothing(load):
    boxes = [[0.1, 0.2, 0.5, 0.5], [0.3, 0.3, 0.2, 0.4]]
    with pytest.raises(ValueError, match=r"the boxes look like .* in fractions of the image"):
        check_learnable(load(*(entry(k, 0) | {"bbox": box} for k, box in enumerate(boxes))))


def test_one_object_is_enough(load):
    check_learnable(load(entry(1), entry(2, 0)))


def test_a_class_of_crowds_alone_is_a_warning(load):
    annotations = load(*(entry(k, 0) for k in range(10)), entry(10, 1, 7))
    assert texts(annotations) == ["1 class has crowds only: ring"]
    assert "training cannot learn them" in crowd_findings(annotations, True)[1].advice
    assert "cannot measure their AP" in crowd_findings(annotations, False)[1].advice


@pytest.mark.parametrize(("crowds", "severity"), [(1, "info"), (2, "warning")])
def test_more_than_a_tenth_of_crowds_is_a_warning(load, crowds, severity):
    annotations = load(*(entry(k, int(k < crowds)) for k in range(10)))
    (found,) = crowd_findings(annotations, True)
    assert found.severity == severity
    are = "is a crowd" if crowds == 1 else "are crowds"
    assert found.what == f"{crowds} of 10 objects ({crowds}0.0%) {are}, neither learned nor scored"
    assert list(found.ids) == list(range(crowds))


def test_images_of_crowds_alone_are_known(load):
    annotations = load(entry(1, 0), entry(2, 1, image=101))
    assert "1 image has crowds only: training uses only their background" in texts(annotations, True, "info")
    assert crowd_findings(annotations, True)[-1].ids == [101]


def test_no_crowds_are_no_news(load):
    assert crowd_findings(load(entry(1, 0)), True) == []


def test_the_mask_of_a_crowd_teaches_no_mask_head(load):
    assert not load(entry(1, segmentation=RLE), entry(2, 0)).has_masks
    assert load(entry(1, segmentation=RLE), entry(2, 0, segmentation=RLE)).has_masks


def test_the_first_lines_of_a_run_count_crowds_apart(load):
    annotations = load(entry(1, 0), entry(2))
    first, images, *others = described("train", annotations)
    assert first == f"train: 4 images, 1 object and 1 crowd, 2 classes, {annotations.path}"
    assert images == "train: 3 images without objects are kept, as background"
    assert others[0].startswith("train: warning: 1 of 2 objects (50.0%) is a crowd")
    assert described("val", load(entry(1)))[2].startswith(
        "val: warning: the only object is a crowd: nothing can be scored"
    )
    assert len(described("train", load(entry(1)))) == 2  # training is rejected in any case


def test_a_file_of_images_alone_has_no_objects_to_count(write_dataset, tmp_path):
    path = write_dataset(tmp_path)
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    annotations = load_annotations(path, known=lambda: pytest.fail("the file has categories"))
    assert not annotations.annotated
    assert described("test", annotations) == [f"test: 4 images, without annotations, {path}"]


def test_one_is_not_many():
    assert [plural(k, "class has", "classes have") for k in (0, 1, 2)] == [
        "0 classes have",
        "1 class has",
        "2 classes have",
    ]
    assert [plural(k, "image") for k in (1, 2)] == ["1 image", "2 images"]

"""Lists of images with several classes: CSV files in two forms, and whole images of COCO files."""

import json

import numpy as np
import pytest

from detection.coco.annotations import load_annotations
from detection.data.labelled import split, with_classes
from detection.data.labelled_dataset import LabelledDataset, collate_labelled
from detection.data.multi_labelled import from_coco_images, from_csv_of_several
from tests.support.labelled import write_digits


@pytest.fixture
def folder(tmp_path):
    return write_digits(tmp_path / "digits", 5, classes=2)


def names(images):
    return [images.files[index] for index in range(len(images))]


def read(folder, text, separator=";"):
    (folder / "labels.csv").write_text(text)
    return from_csv_of_several(folder / "labels.csv", folder, separator)


def test_a_label_names_several_classes_or_none(folder):
    lines = ["file,label", "digit0/0.png,cat; dog", "digit0/1.png,", "digit1/0.png,ant", "digit1/0.png,dog"]
    images = read(folder, "\n".join(lines))
    assert images.classes == ("ant", "cat", "dog")
    assert names(images) == ["digit0/0.png", "digit0/1.png", "digit1/0.png"]
    assert images.labels.tolist() == [[False, True, True], [False] * 3, [True, False, True]]
    assert images.counts().tolist() == [1, 1, 2]
    assert images.described("train")[1] == "  classes per image: 1.33; 1 image without any"
    other = read(folder, 'file,label\ndigit0/0.png,"cat,dog"\n', ",")
    assert other.classes == ("cat", "dog")


def test_a_column_of_ones_and_zeros_for_each_class(folder):
    images = read(folder, "file,dog,cat\ndigit0/0.png,1,0\ndigit0/1.png,1,1\n")
    assert images.classes == ("dog", "cat")
    assert images.labels.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\ndigit0/0.png,a\n", r"the first line must be file,label, or file and a column for each class"),
        ("file\ndigit0/0.png\n", r"the first line must be file,label"),
        ("file,cat\ndigit0/0.png,2\n", r"line 2: cat is 2; a column of a class has 0 or 1"),
        ("file,label\n,cat\n", r"line 2 lacks a file"),
        ("file,label\ndigit0/99.png,cat\n", r"line 2: no file digit0/99.png"),
        ("file,label\ndigit0/0.png,\n", r"names no class"),
        ("file,label\n", r"lists no images"),
    ],
)
def test_a_wrong_csv_file_is_rejected_in_one_line(folder, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read(folder, text)
    assert "\n" not in str(error.value)


def test_an_image_of_a_coco_file_has_the_classes_of_its_objects(folder):
    objects = [(1, 1, 0), (1, 3, 0), (1, 3, 0), (2, 3, 1)]
    content = {
        "images": [{"id": n, "file_name": f"digit0/{n}.png", "height": 32, "width": 32} for n in (1, 2, 3)],
        "categories": [{"id": n, "name": name} for n, name in ((1, "red"), (2, "green"), (3, "blue"))],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": crowd}
            for n, (i, c, crowd) in enumerate(objects, 1)
        ],
    }
    (folder / "objects.json").write_text(json.dumps(content))
    images = from_coco_images(load_annotations(folder / "objects.json"), folder)
    assert (images.classes, images.crops) == (("red", "green", "blue"), None)
    assert images.labels.tolist() == [[True, False, True], [False, False, True], [False] * 3]
    assert images.described("train")[-1] == "  without images: 1 class: green"


def test_a_split_keeps_images_of_rare_classes_for_training(folder):
    lines = [f"digit{n}/{k}.png,common{';rare' if n == 1 and k < 2 else ''}" for n in (0, 1) for k in range(5)]
    images = read(folder, "\n".join(["file,label", *lines]))
    train, val = split(images, 0.4, seed=0)
    assert (len(train), len(val)) == (6, 4)
    assert (train.counts().tolist(), val.counts().tolist()) == ([6, 1], [4, 1])
    assert sorted(names(train) + names(val)) == sorted(names(images))


def test_columns_of_validation_are_those_of_training(folder):
    images = read(folder, "file,label\ndigit0/0.png,b;c\n")
    assert with_classes(images, ("c", "a", "b")).labels.tolist() == [[True, False, True]]
    with pytest.raises(ValueError, match="has the class c, which training does not have"):
        with_classes(images, ("a", "b"))


def test_a_batch_has_a_row_of_classes_for_each_image(folder):
    images = read(folder, "file,label\ndigit0/0.png,b;c\ndigit1/0.png,a\n")
    data = LabelledDataset(images, lambda image: image)
    batch = collate_labelled([data[0], data[1]])
    np.testing.assert_array_equal(batch.labels.numpy(), images.labels)
    assert batch.image_ids.tolist() == [0, 1]

"""Lists of labelled images: class folders, CSV files, crops of COCO files, and their random split."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from detection.coco.annotations import load_annotations
from detection.data.errors import DataError
from detection.data.labelled import from_coco, from_csv, from_folders, split, with_classes
from detection.data.labelled_dataset import LabelledDataset, collate_labelled
from detection.data.reading import Reading
from tests.support.labelled import write_digits


@pytest.fixture
def folder(tmp_path):
    return write_digits(tmp_path / "digits", 5, classes=3)


def names(images):
    return [images.files[index] for index in range(len(images))]


def test_folders_are_classes_in_alphabetical_order(folder):
    images = from_folders(folder)
    assert images.classes == ("digit0", "digit1", "digit2")
    assert names(images)[5:7] == ["digit1/0.png", "digit1/1.png"]
    assert images.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert images.path(0).is_file()


def test_a_class_without_images_is_rejected(folder):
    (folder / "digit7").mkdir()
    (folder / "digit7" / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match=r"digit7: has no images; add images of this class, or remove the folder"):
        from_folders(folder)


@pytest.mark.parametrize("name", ["nowhere", "digits/digit0"])
def test_a_folder_without_classes_is_rejected(folder, name):
    with pytest.raises(ValueError, match=r"no such folder|has no folders"):
        from_folders(folder.parent / name)


def test_a_csv_file_gives_files_and_labels(folder):
    (folder / "labels.csv").write_text("label,file,who\nseven,digit1/0.png,me\nfour,digit0/3.png,me\n")
    images = from_csv(folder / "labels.csv", folder)
    assert (images.classes, images.labels.tolist()) == (("four", "seven"), [1, 0])
    assert names(images) == ["digit1/0.png", "digit0/3.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\ndigit0/0.png,a\ndigit0/99.png,b\n", r"labels.csv: line 3: no file digit0/99.png in .*digits; "),
        ("file,label\n../digits/digit0/0.png,a\n", r"line 2: no file"),
        ("file,label\ndigit0/0.png,\n", r"line 2 lacks a file or a label"),
        ("file,label\ndigit0/0.png,a\ndigit0/0.png,b\n", r"lists digit0/0.png more than once"),
        ("name,label\ndigit0/0.png,a\n", r"has no column file; the first line must be file,label"),
        ("file,label\n", r"lists no images"),
    ],
)
def test_a_wrong_csv_file_is_rejected_in_one_line(folder, text, message):
    (folder / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        from_csv(folder / "labels.csv", folder)
    assert "\n" not in str(error.value)


@pytest.fixture
def coco(tmp_path):
    """Two images: a red and a green object, a small one, and a crowd; a class without objects."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 10:20] = (0, 0, 255)  # BGR
    image[5:35, 30:55] = (0, 255, 0)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "b.png"), image[:, ::-1])
    objects = [
        (1, 1, [10, 10, 10, 20], 0),
        (1, 2, [30, 5, 25, 30], 0),
        (1, 2, [0, 0, 4, 20], 0),
        (2, 1, [40, 10, 10, 20], 0),
        (2, 1, [0, 0, 60, 40], 1),
    ]
    content = {
        "images": [{"id": n, "file_name": f"{'ab'[n - 1]}.png", "height": 40, "width": 60} for n in (1, 2)],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}, {"id": 3, "name": "blue"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            for n, (i, c, box, crowd) in enumerate(objects, 1)
        ],
    }
    (tmp_path / "objects.json").write_text(json.dumps(content))
    return load_annotations(tmp_path / "objects.json")


def test_each_object_of_a_coco_file_is_a_crop(coco, tmp_path):
    images = from_coco(coco, tmp_path, margin=0.0, smallest=8)
    assert (names(images), images.labels.tolist()) == (["a.png", "a.png", "b.png"], [0, 1, 0])
    assert images.crops.tolist() == [[10, 10, 20, 30], [30, 5, 55, 35], [40, 10, 50, 30]]
    data = LabelledDataset(images, v2.Identity())
    for index, colour in enumerate([(255, 0, 0), (0, 255, 0), (255, 0, 0)]):
        image, label, place = data[index]
        assert (label, place) == (images.labels[index], index)
        assert (image == torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1)).all()
    assert images.described("train")[1:] == [
        "  left out: 1 object, crowds",
        "  left out: 1 object, a side below 8 pixels",
        "  without images: 1 class: blue",
    ]


def test_a_margin_enlarges_a_crop_up_to_the_border(coco, tmp_path):
    images = from_coco(coco, tmp_path, margin=0.25, smallest=8)
    assert images.crops.tolist() == [[7, 5, 23, 35], [23, 0, 60, 40], [37, 5, 53, 35]]


def test_a_missing_image_of_a_coco_file_is_named(coco, tmp_path):
    (tmp_path / "b.png").unlink()
    with pytest.raises(ValueError, match=r"objects.json: no file b.png in"):
        from_coco(coco, tmp_path, margin=0, smallest=8)


def test_a_file_without_large_objects_is_rejected(coco, tmp_path):
    with pytest.raises(ValueError, match=r"has no object with sides of 50 pixels or more; lower data\.crops\.smallest"):
        from_coco(coco, tmp_path, margin=0, smallest=50)


def test_a_split_has_the_same_fraction_of_each_class_and_depends_only_on_the_seed(folder):
    images = from_folders(folder)
    train, val = split(images, 0.4, seed=3)
    assert (train.counts().tolist(), val.counts().tolist()) == ([3, 3, 3], [2, 2, 2])
    assert sorted(names(train) + names(val)) == sorted(names(images))
    assert names(split(images, 0.4, seed=3)[1]) == names(val)
    assert names(split(images, 0.4, seed=4)[1]) != names(val)
    assert split(images, 0.99, seed=0)[0].counts().tolist() == [1, 1, 1]


def test_crops_of_an_image_stay_together(coco, tmp_path):
    train, val = split(from_coco(coco, tmp_path, 0, 8), 0.5, seed=0)
    assert len(val) > 0
    assert not set(names(train)) & set(names(val))


def test_labels_of_validation_are_those_of_training(folder, tmp_path):
    other = write_digits(tmp_path / "val", 2, classes=2)
    assert with_classes(from_folders(other), ("a", "digit1", "digit0")).labels.tolist() == [2, 2, 1, 1]
    with pytest.raises(ValueError, match="has the class digit1, which training does not have"):
        with_classes(from_folders(other), ("digit0",))


RANDOM = v2.Compose([v2.RandomResizedCrop(24, antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4)])


def test_a_sample_depends_only_on_seed_epoch_and_image(folder):
    data = LabelledDataset(from_folders(folder), RANDOM, seed=1)
    first = data[4, 2][0]
    state = torch.get_rng_state()
    torch.rand(7)
    again = data[4, 2][0]
    assert torch.equal(first, again)
    assert not torch.equal(first, data[4, 3][0])
    assert not torch.equal(first, LabelledDataset(from_folders(folder), RANDOM, seed=2)[4, 2][0])
    assert not torch.equal(torch.get_rng_state(), state)  # of torch.rand alone


def test_batches_are_the_same_for_any_number_of_workers(folder):
    data = LabelledDataset(from_folders(folder), RANDOM)
    keys = [[(index, 5) for index in range(start, start + 5)] for start in (0, 5, 10)]
    one, two = (
        list(torch.utils.data.DataLoader(data, batch_sampler=keys, num_workers=n, collate_fn=collate_labelled))
        for n in (0, 2)
    )
    for here, there in zip(one, two, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_a_damaged_file_is_named_in_one_line_or_replaced(folder):
    (folder / "digit1" / "0.png").write_bytes(b"not an image")
    images = from_folders(folder)
    with pytest.raises(DataError, match=r"digit1/0.png: is not an image") as error:
        LabelledDataset(images, v2.Identity())[5]
    assert "\n" not in str(error.value)
    patient = LabelledDataset(images, v2.Identity(), reading=Reading(bad_images=1))
    assert patient[5][1:] == (1, 6)
    assert patient.bad_images() == [5]
    (folder / "digit2" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"more unreadable images than data.bad_images \(1\)"):
        patient[10]


def test_a_description_counts_images_and_names_five_classes_without_any(folder):
    images = from_folders(folder)
    five = replace(images, classes=(*images.classes, *"vwxyz"))
    assert five.described("val") == [
        f"val: 15 images, 8 classes, {folder}", "  without images: 5 classes: v, w, x, y, z"
    ]  # fmt: skip
    more = replace(images, classes=(*images.classes, *"uvwxyz"))
    assert more.described("val")[1] == "  without images: 6 classes: u, v, w, x, y and 1 more"
    present = np.zeros((15, 3), bool)
    present[:10, 0], present[:4, 1] = True, True
    several = replace(images, labels=present)
    assert several.described("train")[1:] == [
        "  classes per image: 0.93; 5 images without any", "  without images: 1 class: digit2"
    ]  # fmt: skip
    assert several.counts().tolist() == [10, 4, 0]
    assert images.only(np.array([6, 0])).described("val")[0] == f"val: 2 images, 3 classes, {folder}"


def test_a_class_of_one_image_keeps_it_for_training(folder):
    images = from_folders(folder).only(np.array([0, 5, 6]))
    for fraction, expected in ((0.99, [1, 1, 0]), (0.0, [1, 2, 0])):
        train, val = split(images, fraction, seed=0)
        assert train.counts().tolist() == expected
        assert len(train) + len(val) == 3
        several = replace(images, labels=np.eye(3, dtype=bool)[images.labels])
        assert split(several, fraction, seed=0)[0].counts().tolist() == expected


@pytest.mark.parametrize(("fraction", "photos"), [(0.0, 0), (0.3, 2), (0.4, 2), (0.7, 4), (1.0, 6)])
def test_a_fraction_of_the_images_of_crops_is_for_validation(folder, fraction, photos):
    images = from_folders(folder)
    crops = replace(images.only(np.arange(12) // 2), crops=np.zeros((12, 4), np.int64), left_out=(("crowds", 2),))
    train, val = split(crops, fraction, seed=1)
    assert len(set(names(val))) == photos
    assert len(val) == 2 * photos
    assert len(train) == 12 - 2 * photos
    assert (train.left_out, val.left_out) == (crops.left_out, ())


def test_classes_of_images_with_several_are_put_in_the_order_of_training(folder):
    images = from_folders(folder).only(np.array([0, 1]))
    present = np.array([[True, False, False], [True, False, True]])
    new = with_classes(replace(images, labels=present), ("digit2", "other", "digit0"))
    assert new.classes == ("digit2", "other", "digit0")
    assert new.labels.tolist() == [[False, False, True], [True, False, True]]


def test_crops_of_an_image_without_large_objects_need_no_file(coco, tmp_path):
    (tmp_path / "b.png").unlink()
    images = from_coco(coco, tmp_path, margin=0, smallest=25)
    assert (names(images), images.labels.tolist()) == (["a.png"], [1])
    assert images.left_out == (("crowds", 1), ("a side below 25 pixels", 3))
    assert images.sizes.tolist() == [[40, 60]]

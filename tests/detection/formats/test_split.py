import copy
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.coco.read import read_coco
from detection.formats.split import split

THREE = {"train": 0.7, "val": 0.2, "test": 0.1}


def coco(classes) -> dict:
    """Image k has an object of each of ``classes[k]``; there are 6 classes."""
    images = [{"id": 10 + k, "file_name": f"{k}.png", "height": 9, "width": 9} for k in range(len(classes))]
    pairs = [(10 + k, name) for k, own in enumerate(classes) for name in own]
    annotations = [
        {"id": k, "image_id": image, "category_id": name, "bbox": [0, 0, 3, 3]} for k, (image, name) in enumerate(pairs)
    ]
    return {
        "info": {"year": 2020},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, 7)],
    }


SETS = st.lists(st.sets(st.integers(1, 6), max_size=4), min_size=3, max_size=60)


@settings(max_examples=60, deadline=None)
@given(SETS, st.sampled_from([{"train": 0.8, "val": 0.2}, THREE, {"a": 1.0}, {"train": 0.5, "val": 0.5, "test": 0.0}]))
def test_every_image_is_in_one_part_with_its_objects(classes, fractions):
    given = coco(classes)
    before = copy.deepcopy(given)
    parts = split(given, fractions, 3)
    assert given == before
    assert list(parts) == [name for name in fractions if fractions[name]]
    for key in ("images", "annotations"):
        found = [entry["id"] for part in parts.values() for entry in part[key]]
        assert sorted(found) == sorted(entry["id"] for entry in given[key])
    for name, part in parts.items():
        assert {a["image_id"] for a in part["annotations"]} <= {i["id"] for i in part["images"]}
        assert part["categories"] == given["categories"]
        assert part["info"] == given["info"]
        count = len(part["images"])
        assert count >= 1
        assert abs(count - fractions[name] * len(classes)) < max(2, len(parts) - 0.5)


@settings(max_examples=40, deadline=None)
@given(SETS, st.randoms(use_true_random=False), st.integers(0, 9))
def test_the_order_of_the_entries_changes_nothing(classes, shuffler, seed):
    given = coco(classes)
    other = {key: list(value) if isinstance(value, list) else value for key, value in given.items()}
    for key in ("images", "annotations"):
        shuffler.shuffle(other[key])
    assert split(other, THREE, seed) == split(given, THREE, seed)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.integers(1, 6), max_size=1), min_size=2, max_size=80), st.integers(0, 99))
def test_classes_are_shared_out_as_the_images_are(classes, seed):
    """With one class per image, rounding moves at most one image for each of the 6 classes and for the empty images."""
    parts = split(coco(classes), {"train": 0.8, "val": 0.2}, seed)
    total = Counter(name for own in classes for name in own or {0})
    found = Counter(a["category_id"] for a in parts["val"]["annotations"])
    found[0] = len(parts["val"]["images"]) - found.total()
    for name, count in total.items():
        assert abs(found[name] - 0.2 * count) <= 7


def test_large_classes_and_empty_images_keep_their_share():
    classes = [{1}] * 500 + [{2}] * 100 + [{3}] * 30 + [set()] * 200 + [{1, 2}] * 60
    parts = split(coco(classes), THREE, 0)
    for name, fraction in THREE.items():
        own = Counter(a["category_id"] for a in parts[name]["annotations"])
        empty = len(parts[name]["images"]) - len({a["image_id"] for a in parts[name]["annotations"]})
        for found, count in ((own[1], 560), (own[2], 160), (own[3], 30), (empty, 200)):
            assert abs(found - fraction * count) <= 3


def test_real_classes_are_closer_to_their_share_than_by_chance(shared_data):
    content = read_coco(shared_data / "coco_mini/annotations/instances_train2017.json")
    held = {(a["image_id"], a["category_id"]) for a in content["annotations"]}
    total = Counter(name for _, name in held)

    def distance(images) -> float:
        found = Counter(name for image, name in held if image in images)
        return sum(abs(found[name] - 0.2 * count) for name, count in total.items())

    ours = [
        distance({i["id"] for i in split(content, {"train": 0.8, "val": 0.2}, seed)["val"]["images"]})
        for seed in range(3)
    ]
    ids = [image["id"] for image in content["images"]]
    chance = [distance(set(random.Random(seed).sample(ids, 20))) for seed in range(30)]
    assert max(ours) < min(chance)
    assert max(ours) < 0.75 * np.mean(chance)


def test_the_seed_chooses_among_equal_images():
    given = coco([{1}] * 40)
    chosen = [frozenset(i["id"] for i in split(given, THREE, seed)["val"]["images"]) for seed in range(5)]
    assert len(set(chosen)) == 5


def test_marked_images_stay_together():
    given = coco([{1 + k % 3} for k in range(60)])
    together = {10 + k: k // 4 for k in range(40)}
    parts = split(given, THREE, 1, together)
    where = {image["id"]: name for name, part in parts.items() for image in part["images"]}
    assert len(where) == 60
    for first in range(0, 40, 4):
        assert len({where[10 + first + k] for k in range(4)}) == 1
    assert {len(part["images"]) for part in parts.values()} == {42, 12, 6}


def test_a_group_larger_than_its_part_leaves_no_part_empty():
    parts = split(coco([{1}] * 12), {"train": 0.8, "val": 0.2}, 0, {10 + k: k < 6 for k in range(12)})
    assert {len(part["images"]) for part in parts.values()} == {6}


def test_annotations_of_images_that_are_not_listed_are_kept_for_the_reader_to_report():
    given = coco([{1}] * 6)
    given["annotations"].append({"id": 99, "image_id": 5000, "category_id": 1, "bbox": [0, 0, 1, 1]})
    parts = split(given, {"val": 0.2, "train": 0.8}, 0)
    assert parts["train"]["annotations"][-1]["id"] == 99


@pytest.mark.parametrize(
    ("count", "fractions", "message"),
    [
        (9, {"train": 0.8, "val": 0.3}, r"fractions are train 0\.8, val 0\.3; .* their sum must be 1"),
        (9, {"train": 1.2, "val": -0.2}, "each must be from 0 to 1"),
        (9, {"train": float("nan"), "val": 0.2}, "each must be from 0 to 1"),
        (2, THREE, r"2 images cannot be split into 3 parts \(train, val, test\)"),
    ],
)
def test_what_cannot_be_split_is_said_in_a_line(count, fractions, message):
    with pytest.raises(ValueError, match=message) as caught:
        split(coco([{1}] * count), fractions, 0)
    assert "\n" not in str(caught.value)

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from detection.coco.annotations import TWICE, load_annotations
from detection.coco.twins import NEAR, near_twins


def entries(*changes):
    """Objects that differ in their id and in what is given."""
    base = {"image_id": 100, "category_id": 3, "bbox": [10.0, 20, 20, 10], "segmentation": [[10, 20, 30, 20, 30, 30]]}
    return [{"id": 5 + k, **base, **change} for k, change in enumerate(changes)]


def test_an_object_that_stands_twice_is_counted_by_its_later_ids_and_kept(write_dataset, tmp_path):
    annotations = load_annotations(write_dataset(tmp_path, annotations=entries({}, {}, {})))
    assert annotations.num_objects == 3
    assert annotations.report.counts == {TWICE: 2}
    assert annotations.report.ids[TWICE] == [6, 7]
    assert "67% of 3" in str(annotations.report)
    assert annotations.near_twins() == []  # exact ones are told as such


@pytest.mark.parametrize(
    "change",
    [{"image_id": 101}, {"category_id": 7}, {"bbox": [10.5, 20, 20, 10]}, {"iscrowd": 1}, {"segmentation": []},
     {"segmentation": [[10, 20, 30, 20, 30, 29]]}],
)  # fmt: skip
def test_objects_that_differ_in_anything_but_the_id_are_no_twins(write_dataset, tmp_path, change):
    annotations = load_annotations(write_dataset(tmp_path, annotations=entries({}, change)))
    assert TWICE not in annotations.report.counts


def test_masks_as_rle_are_compared_too(write_dataset, tmp_path):
    one, other = ({"size": [60, 80], "counts": [100, 10, 4690]}, {"size": [60, 80], "counts": [100, 9, 4691]})
    path = write_dataset(tmp_path, annotations=entries({"segmentation": one}, {"segmentation": other}))
    assert not load_annotations(path).report
    path = write_dataset(tmp_path, annotations=entries({"segmentation": one}, {"segmentation": one}))
    assert load_annotations(path).report.counts == {TWICE: 1}


def test_near_twins_are_pairs_of_ids_of_one_class(write_dataset, tmp_path):
    near = {"bbox": [10.0, 20, 20, 10.1]}  # IoU 10 / 10.1 = 0.990
    far = {"bbox": [10.0, 20, 20, 10.5]}  # 10 / 10.5 = 0.952
    path = write_dataset(tmp_path, annotations=entries({}, near, far, near | {"category_id": 7}))
    annotations = load_annotations(path)
    assert annotations.near_twins() == [(5, 6)]
    assert not annotations.report


@pytest.mark.parametrize("seed", range(3))
def test_near_twins_are_those_of_a_slow_loop(seed):
    generator = np.random.default_rng(seed)
    corner = generator.integers(0, 3, (60, 2)) * 0.2
    boxes = np.concatenate([corner, corner + 20], axis=1)
    owners, labels = np.sort(generator.integers(0, 3, 60)), generator.integers(0, 2, 60)
    iou = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    expected = {
        k: next(j for j in range(k) if (owners[j], labels[j]) == (owners[k], labels[k]) and iou[j, k] > NEAR)
        for k in range(60)
        if any((owners[j], labels[j]) == (owners[k], labels[k]) and iou[j, k] > NEAR for j in range(k))
    }
    assert expected
    assert {second: first for first, second in near_twins(owners, labels, boxes)} == expected


def test_more_objects_than_are_compared_at_a_time(monkeypatch):
    monkeypatch.setattr("detection.coco.twins._ROWS", 3)
    boxes = np.array([[k * 10.0, 0, k * 10 + 8, 8] for k in range(10)] + [[20.0, 0, 28, 8]])
    assert list(near_twins(np.zeros(11, int), np.zeros(11, int), boxes)) == [(2, 10)]


def test_nothing_has_no_twins():
    assert list(near_twins(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)))) == []


@pytest.mark.slow
def test_real_data_hold_no_exact_twins(shared_data):
    for name in ("nuclei/annotations/instances_val.json", "coco_mini/annotations/instances_val2017.json"):
        assert load_annotations(shared_data / name).exact_twins() == []

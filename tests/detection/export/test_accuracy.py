"""The gate compares AP of a detector and its export on annotated images."""

from copy import deepcopy
from dataclasses import asdict, replace

import pytest

from detection.export import check_data
from detection.export.accuracy import Accuracy
from detection.export.check_data import CheckData
from detection.export.gate import Gate, Tolerances
from detection.shapes import write_shapes
from tests.detection.export.test_gate import FOUND, differ


@pytest.fixture
def data(tmp_path, tiny_model):
    write_shapes(tmp_path, train=1, val=6)
    return CheckData(str(tmp_path), tiny_model)


def finds(monkeypatch, shift):
    """Let every detector find the objects themselves, some pixels off."""

    def detect(model, annotations, images, evaluator):
        evaluator.add_results(
            [
                {"image_id": one["image_id"], "category_id": one["category_id"], "score": 0.9}
                | {"bbox": [one["bbox"][0] + shift(model), *one["bbox"][1:]]}
                for one in annotations.to_coco()["annotations"]
            ]
        )

    monkeypatch.setattr(check_data, "detect", detect)


def test_equal_detections_have_equal_ap_and_others_do_not_pass(data, tiny_model, monkeypatch):
    monkeypatch.setattr(check_data, "iou_types", lambda model: ["bbox"])
    other = deepcopy(tiny_model)
    finds(monkeypatch, lambda model: 8 * (model is other))
    same = data.compare(tiny_model, tiny_model)
    assert same.ours == same.theirs == pytest.approx({"bbox": 1.0})
    assert (same.images, same.passed) == (6, True)
    worse = data.compare(tiny_model, other)
    assert worse.ours["bbox"] == pytest.approx(1.0)
    assert worse.theirs["bbox"] < 0.9
    assert not worse.passed


def test_a_gate_with_another_ap_does_not_pass():
    equal = Accuracy(6, {"bbox": 0.5}, {"bbox": 0.5005})
    gate = Gate(Tolerances(), (differ(FOUND),), "engine", equal)
    assert gate.passed
    assert gate.summary()["accuracy"] == asdict(equal)
    assert "bbox AP 50.00, export 50.05" in gate.line()
    for ap in (0.4985, 0.5015, float("nan")):
        assert not replace(gate, accuracy=Accuracy(6, {"bbox": 0.5}, {"bbox": ap})).passed


def test_some_images_of_the_data_are_compared(data):
    names = [name for name, _ in data.samples(3)]
    assert names == [data.annotations.file_name(k) for k in (0, 2, 5)]
    assert all(pixels.ndim == 3 for _, pixels in data.samples(3))

"""Which layers of an INT8 export stay in float32, and what decides it."""

from dataclasses import asdict

import numpy as np
import pytest

from detection.commands.main import main
from detection.export import int8
from detection.export.accuracy import Accuracy, Quantised
from detection.export.check_data import CheckData
from detection.export.gate import Gate, Tolerances
from detection.export.int8 import STEPS, Quantiser, inputs, stays_float
from detection.shapes import write_shapes

NAMES = ["backbone.conv1", "backbone.layer2.0.conv1", "fpn.lateral.0", "rpn.convs.0", "rpn.objectness", "head.logits"]


def test_each_step_keeps_more_layers_and_the_first_keeps_none():
    kept = [[name for name in NAMES if stays_float(name, step)] for step in STEPS]
    assert kept[0] == []
    assert kept[1] == ["rpn.objectness", "head.logits"]
    assert kept[2] == ["rpn.convs.0", "rpn.objectness", "head.logits"]
    assert kept[3] == ["fpn.lateral.0", *kept[2]]
    assert kept[4] == ["backbone.conv1", *kept[3]]


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_model):
    """A data set, a file, and detectors whose AP depends on the number of layers in float32."""
    write_shapes(tmp_path / "data", train=3, val=6, size=64)
    file = tmp_path / "model.onnx"
    file.write_bytes(b"float")
    monkeypatch.setattr(int8, "needed", lambda *_: None)
    monkeypatch.setattr(int8, "layers_of", lambda _: {name: [f"node of {name}"] for name in NAMES})
    monkeypatch.setattr(int8, "quantise", lambda file, output, batches, nodes: output.write_text(str(len(nodes))))
    monkeypatch.setattr(
        int8, "_loaded", lambda file: int(file.read_text()) if file.read_bytes() != b"float" else tiny_model
    )
    monkeypatch.setattr(int8, "open_session", lambda *_: type("Session", (), {"engine": "engine"}))
    monkeypatch.setattr(CheckData, "evaluated", lambda self, model: model)
    monkeypatch.setattr(CheckData, "score", lambda self, model: {"bbox": ap(model)})
    monkeypatch.setattr(int8, "paired", lambda _, first, second: {"bbox": (ap(second) - ap(first), -0.01, 0.01)})
    return tmp_path / "data", file


def ap(model):
    """0.5 for the detector itself, and for a file with this number of float layers."""
    return 0.48 + 0.01 * model / 2 if isinstance(model, int) else 0.5


def quantiser(data, model, most_drop=0.003):
    return Quantiser(CheckData(str(data), model, "train"), CheckData(str(data), model), most_drop)


@pytest.mark.parametrize(("drop", "layers"), [(0.03, 0), (0.012, 2), (0.006, 3), (0.0001, 4)])
def test_the_fewest_float_layers_that_keep_ap(place, tiny_model, drop, layers):
    data, file = place
    gate = quantiser(data, tiny_model, drop)(tiny_model, file)
    assert gate.passed
    assert len(gate.quantised.float_layers) == layers
    assert gate.quantised.layers == len(NAMES) - layers
    assert file.read_text() == str(layers)
    assert (gate.quantised.images, gate.accuracy.images) == (3, 3)
    assert gate.summary()["int8"] == asdict(gate.quantised)
    assert "bbox AP 50.00" in gate.line()


def test_no_choice_of_layers_is_an_error_and_leaves_the_file(place, tiny_model, monkeypatch):
    data, file = place
    monkeypatch.setattr(int8, "paired", lambda *_: {"bbox": (-0.2, -0.3, -0.1)})
    with pytest.raises(ValueError, match=r"no choice of layers keeps AP within 0.3; give a larger --max-drop"):
        quantiser(data, tiny_model)(tiny_model, file)
    assert file.read_bytes() == b"float"


def test_the_other_half_of_the_images_decides_whether_it_passes():
    done = Quantised(3, (), 5, {"bbox": (0.0, 0.0, 0.0)})
    for theirs, passes in ((0.5, True), (0.6, True), (0.49, False), (float("nan"), False)):
        accuracy = Accuracy(5, {"bbox": 0.5}, {"bbox": theirs}, 0.003, may_gain=True)
        assert Gate(Tolerances(), (), "engine", accuracy, done).passed == passes
    assert not Gate(Tolerances(), (), "engine", None, done).passed


def test_the_halves_of_the_data_have_all_images_and_objects(tmp_path, tiny_model):
    write_shapes(tmp_path, train=1, val=5, size=64)
    data = CheckData(str(tmp_path), tiny_model)
    halves = [data.half(first) for first in (0, 1)]
    assert [len(half.annotations) for half in halves] == [3, 2]
    assert sum(half.annotations.num_objects for half in halves) == data.annotations.num_objects
    names = {name for half in halves for name, _ in half.samples()}
    assert names == {name for name, _ in data.samples()}


def test_the_inputs_are_those_of_a_prediction(tiny_model, pixels):
    given = next(inputs(tiny_model, [("a", pixels)]))
    assert given["images"].shape == (1, 3, 64, 96)
    assert given["images"].dtype == np.uint8
    assert given["sizes"].tolist() == [[60, 96]]


def test_int8_needs_onnx_and_data(tmp_path, capsys):
    for options in (["--format", "torch", "--calibration", "data"], ["--format", "openvino"], ["--format", "onnx"], []):
        assert main(["export", "a.ckpt", "-o", str(tmp_path / "out"), "--int8", *options]) == 2
        assert "--int8: is for --format onnx or openvino, and needs --calibration DATA" in capsys.readouterr().err

"""A detector as an ONNX file finds what the detector finds, with PyTorch and without; a broken file is caught."""

import json
import subprocess
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

from detection import fast, predict
from detection.categories import Categories
from detection.export import onnx_file
from detection.export.extras import EXTRA
from detection.export.folder import export_folder
from detection.export.gate import run_gate
from detection.export.images import synthetic_images
from detection.export.loading import load_exported
from detection.inference.api import load_model, predict_batch
from detection.models.rcnn import MaskRCNN
from tests.support.exported_models import MODELS, without_torch

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in EXTRA if name != "nncf"), reason="needs the extras onnx and openvino"
    ),
]


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    """A detector, and the folder of its export."""
    model = fast.convert(MODELS[request.param]()).eval()
    model.categories, model.test_size = Categories(("cat", "dog", "bird"), (3, 9, 40)), (96, 160)
    place = tmp_path_factory.mktemp(request.param) / "exported"
    file, gate = export_folder(model, place)
    assert gate.passed, gate.line()
    assert sum(one.found for one in gate.differences) > 20
    return model, file


def test_the_folder_holds_the_model_its_settings_the_proof_and_a_program(exported):
    _, file = exported
    assert {path.name for path in file.parent.iterdir()} == {"model.onnx", "model.json", "card.md", "predict.py"}
    assert "Parity gate: passed" in (file.parent / "card.md").read_text()
    assert len((file.parent / "predict.py").read_text().splitlines()) <= 200


def test_predict_gives_the_same_prediction(exported):
    model, file = exported
    images = [np.random.default_rng(k).integers(0, 255, side, np.uint8) for k, side in enumerate([(90, 70, 3)] * 3)]
    loaded = load_model(file)
    assert load_model(file.parent).categories == model.categories
    for mine, reference in zip(predict_batch(loaded, images, 0.1), predict_batch(model, images, 0.1), strict=True):
        assert len(reference)
        np.testing.assert_allclose(mine.boxes, reference.boxes, atol=0.01)
        np.testing.assert_allclose(mine.scores, reference.scores, atol=1e-4)
        assert mine.names == reference.names
        assert (mine.rles is None) == (reference.rles is None)
    assert isinstance(loaded, MaskRCNN) == isinstance(model, MaskRCNN)
    tiled = predict(loaded, images[0], tile=64, size=(64, 96))
    assert tiled.names == predict(model, images[0], tile=64, size=(64, 96)).names


@pytest.mark.parametrize("broken", ["RoiAlign", "NonMaxSuppression", "TopK", "Resize", "Sub", "Exp", "Sigmoid"])
def test_a_file_with_a_broken_operator_does_not_pass_and_does_not_load(exported, tmp_path, broken):
    model, file = exported
    content = onnx.load(str(file))
    if not break_operator(content.graph, broken):
        pytest.skip("this detector does not have the operator")
    path = tmp_path / "model.onnx"
    onnx.save(content, str(path))
    gate = run_gate(model, load_exported(path, unchecked=True), synthetic_images(model), "test")
    assert not gate.passed, gate.line()
    onnx_file.add_metadata(path, {"gate": gate.summary()})
    with pytest.raises(ValueError, match=r"its detections differ from those of the checkpoint"):
        load_model(path)
    assert len(load_model(path, unchecked=True).categories) == 3


def break_operator(graph, kind):
    """Change the nodes of a kind, and return whether there are some."""
    nodes = [node for node in graph.node if node.op_type == kind]
    if kind == "Sub":  # the normalisation
        nodes = nodes[:1]
    for node in nodes:
        attributes = {one.name: one for one in node.attribute}
        if kind == "RoiAlign":
            attributes["coordinate_transformation_mode"].s = b"output_half_pixel"
        elif kind == "NonMaxSuppression":
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("center_point_box", 1))
        elif kind == "TopK":
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("largest", 0))
        elif kind == "Resize":
            attributes["mode"].s = b"nearest" if attributes["mode"].s != b"nearest" else b"linear"
        else:
            node.op_type = {"Sub": "Add", "Exp": "Tanh", "Sigmoid": "Tanh"}[kind]
    return bool(nodes)


def test_a_file_that_changed_after_its_gate_does_not_load(exported, tmp_path):
    _, file = exported
    for name in ("model.onnx", "model.json"):
        (tmp_path / name).write_bytes((file.parent / name).read_bytes())
    onnx_file.add_metadata(tmp_path / "model.onnx", {"other": 1})
    with pytest.raises(ValueError, match="differs from the file that was compared"):
        load_model(tmp_path)


def test_the_program_of_the_folder_needs_no_pytorch(exported, tmp_path):
    model, file = exported
    python = without_torch(tmp_path / "env")
    image = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image[..., ::-1])
    command = [python, file.parent / "predict.py", tmp_path / "image.png", "--score", "0.1"]
    command += ["--save", tmp_path / "found.jpg"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)["detections"]
    reference = predict(model, image, 0.1)
    assert [one["name"] for one in found] == reference.names
    np.testing.assert_allclose([one["box"] for one in found], reference.boxes, atol=0.02)
    np.testing.assert_allclose([one["score"] for one in found], reference.scores, atol=1e-4)
    assert (tmp_path / "found.jpg").is_file()
    if reference.masks is not None:
        for one, mask in zip(found, reference.masks, strict=True):
            counts = one["mask"]["counts"]
            pixels = np.repeat(np.arange(len(counts)) % 2, counts).reshape(mask.shape[::-1]).T
            assert (pixels != mask).mean() < 1e-3

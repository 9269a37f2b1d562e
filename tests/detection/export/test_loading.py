"""An exported file is a detector like any other, and a file without a proof does not load."""

import copy
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from detection import predict
from detection.export import loading
from detection.export.extras import needed
from detection.export.loading import FIXED, load_exported, of_session
from detection.inference.api import load_model
from detection.inference.info import kind_of
from detection.models.thresholds import Thresholds
from tests.support.exported_models import MODELS, Session


@pytest.fixture(params=MODELS)
def session(request):
    model = MODELS[request.param]()
    model.test_size = (96, 160)
    return Session(model)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that a session pretends to have read."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"onnx")
    session = Session(MODELS["retinanet"]())
    monkeypatch.setattr(loading, "open_session", lambda *_: session)
    return path, session


def test_it_predicts_as_the_detector_itself(session, pixels):
    model = of_session(session, "file")
    mine, reference = predict(model, pixels, 0.1), predict(session.model, pixels, 0.1)
    assert len(reference)
    np.testing.assert_allclose(mine.boxes, reference.boxes, atol=1e-3)  # another layout in memory
    assert mine.names == reference.names
    assert (mine.rles is None) == (reference.rles is None)
    assert kind_of(model) == kind_of(session.model)
    assert model.num_classes == 3
    assert asdict(model.last_head.config) == asdict(session.model.last_head.config)
    assert str(model.info())


def test_its_settings_are_fixed(session):
    model = of_session(session, "file")
    model.last_head.config = replace(model.last_head.config)
    with pytest.raises(ValueError, match=FIXED):
        model.last_head.config = replace(model.last_head.config, nms_threshold=0.1)
    with pytest.raises(ValueError, match="precision of its file"):
        copy.deepcopy(model)
    with pytest.raises(ValueError, match="precision of its file"), torch.autocast("cpu", torch.bfloat16):
        predict(model, np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(ValueError, match="load the checkpoint for its features"):
        model.features(None, None)
    assert model.to("cpu") is model
    with pytest.raises(ValueError, match="runs on the CPU"):
        model.to("meta")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("gate", None, "has no parity gate"),
        ("gate", {"passed": False}, r"differ from those of the checkpoint, see card\.md"),
        ("gate", {"passed": 1}, "differ from those"),
    ],
)
def test_a_file_without_a_proof_does_not_load(file, entry, value, message):
    path, session = file
    session.metadata[entry] = value
    with pytest.raises(ValueError, match=message):
        load_model(path)
    assert load_model(path, unchecked=True).num_classes == 3


@pytest.mark.parametrize(
    ("entry", "value"),
    [("export", None), ("export", {"stride": -1, "channels": 3}), ("rcnn", None), ("rcnn", {"a": 1})],
)
def test_a_foreign_file_does_not_load(file, entry, value):
    path, session = file
    session.metadata[entry] = value
    with pytest.raises(ValueError, match=r"is no export of this toolkit|entry rcnn"):
        load_exported(path)


def test_a_file_that_changed_does_not_load(file):
    path, _ = file
    listed = path.with_name("model.json")
    listed.write_text(json.dumps({"files": {path.name: loading.checksum_of(path)}}))
    assert load_exported(path.parent).num_classes == 3
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match="differs from the file that was compared"):
        load_exported(path.parent)


def test_a_missing_file_and_a_missing_package_are_reported_in_a_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no such file; give an exported file"):
        load_model(tmp_path / "model.onnx")
    monkeypatch.setattr("detection.export.extras.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"^onnx is not installed: pip install 'rcnn-toolkit\[onnx\]'$"):
        needed("onnx")


def test_it_has_the_score_thresholds_of_the_detector(session):
    assert of_session(session, "file").thresholds is None
    own = Thresholds("best-f1", (0.3, None, 0.6), (None,) * 3, (None,) * 3, 12, 1.5)
    session.metadata["rcnn"]["thresholds"] = json.loads(json.dumps(asdict(own)))
    assert of_session(session, "file").thresholds == own

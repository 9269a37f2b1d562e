"""Thresholds from an evaluation are stored in checkpoints, and predictions use them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detection import load_model, predict
from detection.checkpoint_files import read_checkpoint
from detection.commands.main import main
from detection.convert.average import average
from detection.convert.export import save_safetensors
from detection.convert.pretrained import load_pretrained
from detection.evaluation.coco import CocoEvaluator
from detection.models.thresholds import Thresholds
from detection.report.set_thresholds import chosen, file_to_change, store

OWN = Thresholds("best-f1", (0.25, None), (0.2, None), (0.3, None), 12)


@pytest.fixture
def file(tmp_path, tiny_model, request):
    path = tmp_path / f"model{request.param}"
    tiny_model.save(path) if request.param == ".ckpt" else save_safetensors(tiny_model, path)
    return path


both = pytest.mark.parametrize("file", [".ckpt", ".safetensors"], indirect=True)


@both
def test_they_are_stored_and_the_weights_stay(file, tiny_model):
    store(file, OWN)
    loaded = load_model(file)
    assert loaded.thresholds == OWN
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    again = file.with_name("again.ckpt")
    loaded.save(again)
    assert load_model(again).thresholds == OWN
    assert average([load_pretrained(str(file))] * 2).thresholds is None  # they belong to other weights


@both
def test_predictions_use_them_and_calibrate(file, pixels):
    every = predict(load_model(file), pixels, 0.0)
    middle = float(np.sort(every.scores)[len(every) // 2])
    store(file, replace(OWN, scores=(middle,) * 2, low=(0.0,) * 2, high=(1.0,) * 2, temperature=2.0))
    model, kept = load_model(file), every.scores >= np.float32(middle)
    assert 0 < kept.sum() < len(every)
    found = predict(model, pixels, "model")
    assert found.labels.tolist() == every.labels[kept].tolist()
    odds = every.scores[kept] / (1 - every.scores[kept])
    np.testing.assert_allclose(found.scores, odds**0.5 / (1 + odds**0.5), rtol=1e-5)


@both
def test_the_command_uses_them_and_says_so(file, pixels, tmp_path, capsys):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    command = ["predict", str(file), str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--score", "model"]
    assert main(command) != 0
    assert (
        "the model has no score thresholds; choose them with rcnn evaluate --set-thresholds" in capsys.readouterr().err
    )
    store(file, OWN)
    assert main(command) == 0
    assert "score thresholds of the model (best-f1, 12 images): cat 0.250, others 0.5" in capsys.readouterr().out


def test_they_come_from_the_detections_of_each_class(truth, results):
    evaluator = CocoEvaluator(truth, ["bbox"], image_ids="all")
    evaluator.add_results(results)
    found, points = chosen("best-f1", evaluator, ["cat", "dog", "<bird>", "other"], calibrate=True, resamplings=20)
    assert found.images == len(truth["images"])
    assert [point is None for point in points] == [False, False, True, True]
    assert found.scores[2:] == (None, None)
    for k in (0, 1):
        assert 0.3 < found.scores[k] < 1
        assert found.low[k] <= found.scores[k] <= found.high[k]
        assert points[k].precision > 0.6
    assert found.temperature > 0


@pytest.mark.parametrize("name", ["results.json", "exported", "model.onnx", "missing.ckpt"])
def test_a_file_that_cannot_hold_them_is_reported(tmp_path, name):
    (tmp_path / "exported").mkdir()
    for one in ("results.json", "exported/model.json", "model.onnx"):
        (tmp_path / one).write_text("{}")
    with pytest.raises(ValueError, match="is no checkpoint of this toolkit, which could hold thresholds"):
        file_to_change(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scores", [0.5], "scores, low and high must have the same length"),
        ("scores", [0.5, 2.0], "outside 0 to 1"),
        ("temperature", 0.0, "temperature is 0.0"),
        ("temperature", "1", "rcnn.thresholds.temperature"),
        ("unknown", 1, "unknown setting"),
    ],
)
def test_wrong_thresholds_in_a_file_are_reported(tmp_path, tiny_model, name, value, message):
    path = tmp_path / "model.ckpt"
    tiny_model.save(path)
    store(path, OWN)
    content = read_checkpoint(path)
    content["rcnn"]["thresholds"][name] = value
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load_model(path)

"""Commands take the folder of an export like a checkpoint, and give the same numbers."""

import json

import cv2
import numpy as np
import pytest

from detection import evaluate
from detection.commands.main import main
from detection.export import loading
from detection.inference.api import load_model
from detection.shapes import draw_scene, write_shapes
from detection.structures import Categories
from tests.support.exported_models import MODELS, Session


@pytest.fixture(scope="module", params=["mask_rcnn", "task_aligned"])
def sources(request, tmp_path_factory):
    """A checkpoint, the folder of its export, and the session that the folder opens."""
    place = tmp_path_factory.mktemp(request.param)
    model = MODELS[request.param]().eval()
    model.categories, model.test_size = Categories(("circle", "square", "triangle"), (1, 2, 3)), (96, 160)
    model.save(place / "model.ckpt")
    (place / "exported").mkdir()
    (place / "exported" / "model.onnx").write_bytes(b"onnx")
    (place / "exported" / "model.json").write_text("{}")
    return place / "model.ckpt", place / "exported", Session(load_model(place / "model.ckpt"))


@pytest.fixture
def both(sources, monkeypatch):
    monkeypatch.setattr(loading, "open_session", lambda *_: sources[2])
    return sources[:2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("data"), train=1, val=4, size=96)


@pytest.mark.slow
def test_evaluate_and_compare(both, data, tmp_path, capsys):
    folders = [tmp_path / source.stem for source in both]
    for source, folder in zip(both, folders, strict=True):
        command = ["evaluate", str(source), "--data", str(data), "--workers", "0", "--resamplings", "0"]
        assert main([*command, "-o", str(folder), "--device", "cpu", "--pictures", "0"]) == 0
    reports = [json.loads((folder / "report.json").read_text()) for folder in folders]
    for kind in ("bbox", "segm"):
        for name, number in reports[0][kind]["numbers"].items():
            assert reports[1][kind]["numbers"][name]["value"] == pytest.approx(number["value"], abs=1e-6), name
    assert reports[0]["about"]["detector"] == reports[1]["about"]["detector"]
    same_results(*(folder / "results_bbox.json" for folder in folders))
    assert main(["compare", *map(str, folders), "--resamplings", "0"]) == 0
    found = evaluate(load_model(both[1]), data, output=tmp_path / "python", workers=0, resamplings=0, device="cpu")
    assert found.box == evaluate(both[1], data, output=tmp_path / "p", workers=0, resamplings=0, device="cpu").box


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--tile", "64"], ["--flip"], ["--size", "64", "96"]])
def test_predict_folders_videos_and_tiles(both, tmp_path, options):
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for k, side in enumerate([(90, 130), (70, 64)]):
        cv2.imwrite(str(images / f"{k}.png"), draw_scene(k, *side, rng)[0])
    video = cv2.VideoWriter(str(tmp_path / "film.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64))
    for k in range(3):
        video.write(draw_scene(k, 64, 96, rng)[0])
    video.release()
    for source in both:
        command = ["predict", str(source), str(images), str(tmp_path / "film.mp4"), "--save", "json", "--score", "0.1"]
        assert main([*command, "-o", str(tmp_path / source.stem), "--device", "cpu", *options]) == 0
    same_results(*(tmp_path / source.stem / "results.json" for source in both))


@pytest.mark.slow
def test_benchmark_and_show(both, capsys):
    for source in both:
        assert main(["benchmark", str(source), "--batch", "1", "--rounds", "1", "--device", "cpu"]) == 0
        assert main(["models", "show", str(source)]) == 0
    assert "circle, square, triangle" in capsys.readouterr().out


def same_results(first, second):
    """Check that two files have the same detections, in any order of equal scores."""
    ours, theirs = (json.loads(path.read_text()) for path in (first, second))
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine["image_id"], mine["category_id"]) == (other["image_id"], other["category_id"])
        np.testing.assert_allclose(mine["bbox"], other["bbox"], atol=0.02)
        assert mine["score"] == pytest.approx(other["score"], abs=2e-4)

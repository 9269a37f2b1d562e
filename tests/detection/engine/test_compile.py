"""Compiled evaluation compiles the common canvases, and returns the same metrics."""

import json
import math
import shutil

import cv2
import pytest
import torch
import yaml

from detection.cli import main
from detection.engine import datamodule, module
from detection.fast.rcnn import compile_model
from detection.run_files import evaluations


@pytest.fixture
def mixed(shapes, tmp_path):
    """The data set, one of whose four validation images stands upright."""
    root = shutil.copytree(shapes, tmp_path / "mixed")
    path = root / "annotations" / "instances_val.json"
    coco = json.loads(path.read_text())
    image = coco["images"][0]
    pixels = cv2.imread(str(root / "val" / image["file_name"]))
    cv2.imwrite(str(root / "val" / image["file_name"]), pixels.transpose(1, 0, 2))
    image["height"], image["width"] = image["width"], image["height"]
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] != image["id"]]
    path.write_text(json.dumps(coco))
    return root


@pytest.fixture
def graphs(monkeypatch):
    """Graphs that were compiled, by the size of their images; they run as they are."""
    found = []

    def backend(graph, inputs):
        found.append([tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor) and x.dtype == torch.uint8])
        return graph.forward

    monkeypatch.setattr(module, "compile_model", lambda model, **_: compile_model(model, backend))
    torch._dynamo.reset()
    yield found
    torch._dynamo.reset()


@pytest.mark.slow
def test_common_canvases_are_compiled_and_the_numbers_stay(tiny_config, trained, mixed, graphs, monkeypatch, tmp_path):
    monkeypatch.setattr(datamodule, "COMPILED_CANVASES", 1)

    def run(compiled: str) -> dict[str, float]:
        folder = tmp_path / compiled
        options = ["--data.root", str(mixed), "--run.folder", str(folder), "--model.compile", compiled]
        options += ["--ckpt_path", str(trained / "checkpoints/last.ckpt")]
        assert main(["validate", "--config", str(tiny_config), *options]) == 0
        (metrics,) = evaluations(folder)
        return {name: -1 if math.isnan(value) else value for name, value in metrics.items()}

    plain = run("false")
    assert not graphs
    assert run("true") == pytest.approx(plain, rel=1e-4)
    assert graphs == [[(1, 3, 64, 96)]]


def test_graphs_and_gradients_summed_over_batches_do_not_go_together(run, capsys):
    assert run("fit", "--model.compile", "graphs", "--trainer.accumulate_grad_batches", "2") == 2
    assert "model.compile graphs does not work with trainer.accumulate_grad_batches 2" in capsys.readouterr().err


def test_with_graphs_training_images_have_few_sizes_too(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "compile_model", lambda model, **options: asked.append(options))
    options = ("--model.compile", "graphs", "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0")
    assert run("fit", *options, "--run.folder", "out") == 0
    assert asked == [{"graphs": True}]
    assert yaml.safe_load((tmp_path / "out/config.yaml").read_text())["model"]["compile"] == "graphs"

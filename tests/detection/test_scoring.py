"""Evaluation and comparison from Python do what the commands do."""

import copy
import json
import math

import pytest

import detection
from detection.categories import Categories
from detection.shapes import write_shapes
from tests.support.commands import evaluate as command


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), train=2, val=3, size=(64, 96))


def test_the_same_report_as_the_command(shapes, tmp_path, tiny_model):
    model = copy.deepcopy(tiny_model)
    model.categories = Categories(("circle", "square"), (1, 2))
    options = {"workers": 0, "resamplings": 5, "pictures": 0}
    found = detection.evaluate(model, shapes, output=tmp_path / "python", **options)
    path = model.save(tmp_path / "tiny.ckpt")
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    command([path, "--data", shapes, "--output", tmp_path / "line", *words])
    line = json.loads((tmp_path / "line/report.json").read_text())
    assert found.content["bbox"] == line["bbox"]
    assert found.box["AP"] == line["bbox"]["numbers"]["AP"]["value"]
    assert set(found.mask) == set(found.box)
    assert len(found.per_class) == 5
    assert found.report_path.is_file()
    differences = detection.compare(found, tmp_path / "line", resamplings=5)
    assert all(not one.difference or math.isnan(one.difference) for one in differences["bbox/numbers"])


def test_what_is_wrong_is_raised_in_one_line(shapes, tmp_path):
    with pytest.raises(ValueError, match="no option bach"):
        detection.evaluate("model.ckpt", shapes, bach=3)
    with pytest.raises(ValueError, match="say what to score against"):
        detection.evaluate("results.json")

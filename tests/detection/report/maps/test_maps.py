"""``rcnn evaluate`` and ``rcnn compare`` score semantic and panoptic maps, with the numbers of the evaluator."""

import csv
import json

import numpy as np
import pytest

from detection import save_model
from detection.categories import Categories
from detection.commands.main import main
from detection.evaluation import confusion, panoptic
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.semantic_head import SemanticHeadConfig
from detection.report.maps.compare import compare_maps
from detection.report.maps.counts import Counts, read_counts, write_counts
from detection.report.maps.page import Case, page
from tests.support.exported_models import BODY, spread
from tests.support.panoptic import CATEGORIES, write_panoptic


def semantic_model(seed=0, names=("cat", "sky", "dog", "road")):
    import torch

    torch.manual_seed(seed)
    model = build_detector(len(names), BODY, FPNConfig(channels=16), semantic_head=SemanticHeadConfig(channels=64))
    spread(model.semantic_head.logits, 2.0)
    model.categories = Categories(tuple(names), tuple(range(1, 1 + len(names))))
    model.test_size = (64, 96)
    return model


def panoptic_model():
    import torch

    torch.manual_seed(0)
    head = SemanticHeadConfig(channels=64, stuff=("sky", "road"), stuff_ids=(5, 9), stuff_area=16, score=0.2)
    box_head = BoxHeadConfig(hidden=32, score_threshold=0.1, detections=10)
    masks = MaskHeadConfig(convs=1, channels=16)
    model = build_detector(2, BODY, FPNConfig(channels=16), box_head=box_head, mask_head=masks, semantic_head=head)
    for layer, factor in (
        (model.box_head.logits, 1.5),
        (model.mask_head.logits, 2.0),
        (model.semantic_head.logits, 2.0),
    ):
        spread(layer, factor)
    model.categories, model.test_size = Categories(("cat", "dog"), (1, 7)), (64, 96)
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_panoptic(tmp_path_factory.mktemp("data"), {"val": 5})


def evaluate(model, data, folder, *options):
    save_model(model, folder / "model.ckpt")
    given = ["--images", data / "val", "--panoptic", data / "panoptic_val.json", "--labels", data / "panoptic_val"]
    command = ["evaluate", folder / "model.ckpt", *given, "--output", folder / "report", *options]
    assert main([str(one) for one in [*command, "--device", "cpu", "--workers", "0", "--resamplings", "20"]]) in (
        0,
        None,
    )
    return folder / "report"


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("tile", [None, "48"])
def test_a_semantic_fpn_gets_a_report(data, tmp_path, capsys, tile):
    folder = evaluate(semantic_model(), data, tmp_path, *(["--tile", tile] if tile else []))
    out = capsys.readouterr().out
    assert "semantic maps:  mIoU" in out
    assert not (folder / "report.html").exists()
    report = json.loads((folder / "maps.json").read_text())
    assert "panoptic" not in report
    rows = table(folder / "images_semantic.csv")
    matrix = np.zeros((4, 4))
    for row in rows:
        matrix[int(row["true"]), int(row["predicted"])] += int(row["pixels"])
    np.testing.assert_array_equal(matrix, report["semantic"]["confusion"])
    assert 0 < matrix.sum() == 5 * 64 * (96 - 6)  # a column has no label
    for name, value in confusion.scores(matrix).items():
        assert report["semantic"]["numbers"][name]["value"] == pytest.approx(value)
    html = (folder / "maps.html").read_text()
    assert html.count("data:image/jpeg") == 2 * sum(row < 1 for row in [0.0] * 5)
    for text in ("Semantic maps", "Confusion matrix", "mean IoU of the classes", "road", "95% interval", "001.png"):
        assert text in html


@pytest.mark.slow
def test_a_panoptic_fpn_gets_both_reports_and_compares(data, tmp_path, capsys):
    truth = ["--annotations", data / "instances_val.json"]
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    evaluate(panoptic_model(), data, first, *truth)
    out = capsys.readouterr().out
    assert "panoptic maps:  PQ" in out
    assert "bbox:" in out
    report = json.loads((first / "report/maps.json").read_text())
    assert {row["name"] for row in report["panoptic"]["classes"]} == {one["name"] for one in CATEGORIES}
    counts = read_counts(first / "report", report["image_ids"], 3, 4, 2)
    numbers = panoptic.quality(counts.segments.sum(axis=0), 2)
    for name, value in numbers.items():
        assert report["panoptic"]["numbers"][name]["value"] == pytest.approx(value, nan_ok=True)
    assert (first / "report/report.html").is_file()
    html = (first / "report/maps.html").read_text()
    assert "of stuff" in html
    assert "matched" in html

    other = panoptic_model()
    spread(other.semantic_head.logits, 2.5)
    other.semantic_head.logits.bias.data[1] += 3.0
    evaluate(other, data, second, *truth)
    capsys.readouterr()
    assert main(["compare", str(first / "report"), str(second / "report"), "--output", str(tmp_path / "c")]) in (
        0,
        None,
    )
    out = capsys.readouterr().out
    for text in ("mIoU", "PQ", "sky", "bbox"):
        assert text in out
    page_text = (tmp_path / "c/comparison.html").read_text()
    assert "Semantic maps: IoU by class" in page_text
    assert "Panoptic maps: PQ by class" in page_text


def test_differences_are_those_of_the_numbers_and_have_paired_intervals(data, tmp_path):
    folders = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        folders.append(evaluate(semantic_model(seed), data, tmp_path / str(seed)))
    found = compare_maps(folders, 200)
    reports = [json.loads((folder / "maps.json").read_text())["semantic"] for folder in folders]
    for one in found["semantic/numbers"]:
        assert [one.first, one.second] == [report["numbers"][one.name]["value"] for report in reports]
        assert one.low <= one.difference <= one.high
    same = compare_maps([folders[0]] * 2, 50)
    assert all(one.difference == one.low == one.high == 0 for one in same["semantic/numbers"])


def test_label_pngs_and_masks_of_objects_are_ground_truth_too(data, tmp_path, capsys):
    model = semantic_model()
    save_model(model, tmp_path / "model.ckpt")
    base = ["evaluate", str(tmp_path / "model.ckpt"), "--images", str(data / "val"), "--device", "cpu"]
    base += ["--workers", "0", "--resamplings", "0", "--pictures", "0", "--output", str(tmp_path / "report")]
    labels = ["--labels", str(data / "labels_val"), "--semantic-classes", str(data / "classes.json")]
    assert not main([*base, *labels])
    rows = table(tmp_path / "report/images_semantic.csv")
    assert sum(int(row["pixels"]) for row in rows) == 5 * 64 * (96 - 6)
    save_model(semantic_model(names=("background", "cat", "dog")), tmp_path / "model.ckpt")
    assert not main([*base, "--annotations", str(data / "instances_val.json")])
    rows = table(tmp_path / "report/images_semantic.csv")
    assert sum(int(row["pixels"]) for row in rows) == 5 * 64 * 96
    capsys.readouterr()
    assert main([*base, *labels]) == 2
    assert "the model has 3 semantic classes, the data 4, and they differ" in capsys.readouterr().err


def test_options_that_do_not_fit_get_one_line(data, tmp_path, capsys):
    save_model(panoptic_model(), tmp_path / "model.ckpt")
    base = ["evaluate", str(tmp_path / "model.ckpt"), "--images", str(data / "val"), "--device", "cpu"]
    panoptic_file = ["--panoptic", str(data / "panoptic_val.json")]
    for options, message in (
        (panoptic_file, "a Panoptic FPN also needs the objects"),
        ([*panoptic_file, "--annotations", str(data / "instances_val.json")], "also give the folder of its PNGs"),
        (["--labels", "x", "--annotations", str(data / "instances_val.json")], "also give --semantic-classes"),
    ):
        assert main([*base, *options, "--output", str(tmp_path / "report")]) == 2
        assert message in capsys.readouterr().err


@pytest.fixture
def counts():
    entries = np.array([[0, 0, 0, 10], [0, 0, 1, 5], [1, 1, 1, 7]])
    segments = np.zeros((2, 3, 4))
    segments[0, 0] = [1.6, 2, 1, 0]
    segments[1, 2] = [0.75, 1, 0, 3]
    return Counts(np.array([4, 9]), 2, entries, segments, 2)


def test_counts_survive_their_files(counts, tmp_path):
    assert write_counts(tmp_path, counts) == ["images_semantic.csv", "images_panoptic.csv"]
    again = read_counts(tmp_path, [9, 4], 2, 3, 2)
    np.testing.assert_array_equal(again.entries, counts.entries)
    np.testing.assert_array_equal(again.segments, counts.segments)
    np.testing.assert_allclose(counts.of_image("semantic"), [10 / 15, 1])
    np.testing.assert_allclose(counts.of_image("panoptic"), [1.6 / 2.5, 0.75 / 2.5])
    np.testing.assert_array_equal(counts.matrix(np.array([2.0, 0])), [[20, 10], [0, 0]])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("images_semantic.csv", "h,h,h,h\n4,0,2,1\n"),  # an unknown class
        ("images_semantic.csv", "h,h,h,h\n5,0,0,1\n"),  # an unknown image
        ("images_semantic.csv", "h,h,h,h\n4,0,0,-1\n"),
        ("images_semantic.csv", "h,h,h,h\n4,0,0,nan\n"),
        ("images_semantic.csv", "h,h,h,h\n4,0,0\n"),
        ("images_semantic.csv", "h,h,h,h\n4,0,0,x\n"),
        ("images_panoptic.csv", "h,h,h,h,h,h\n4,3,0,0,0,0\n"),
        ("images_panoptic.csv", "h,h,h,h,h,h\n4,1,inf,0,0,0\n"),
    ],
)
def test_damaged_files_get_one_line(counts, tmp_path, name, text):
    write_counts(tmp_path, counts)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="run rcnn evaluate again"):
        read_counts(tmp_path, [4, 9], 2, 3, 2)


def test_a_page_hides_no_code_of_names():
    row = {"name": "<b>", "IoU": 0.5, "accuracy": 0.5, "pixels": 3, "predicted": 4, "error": float("nan")}
    report = {"numbers": {"mIoU": {"value": 0.5, "error": 0.1}}, "classes": [row], "confusion": [[3]]}
    about = {"annotations": "a", "date": "d", "images_scored": 1, "detector": "<i>", "python": "3"}
    html = page({"semantic": report}, about, [Case("<u>.png", 3, 0.5)])
    for text in ("<b>&lt;b", "<i>", "<u>.png"):
        assert text not in html
    assert "&lt;b&gt;" in html

import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from detection.evaluation.coco import CocoEvaluator
from detection.report.analysis import Suspect, analyse
from detection.report.page import detector_of, page, summary
from detection.report.pictures import FOUND, MISSED, WRONG, Pictures

VOID = {"meta", "img", "br", "path"}
BESIDE = ["report.json", "classes_bbox.csv"]


class Reader(HTMLParser):
    """Text, tags, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.outside: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.add(value)
            if name in ("src", "href") and not value.startswith(("data:", "#")):
                self.outside.append(value)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def html(evaluator, folder):
    analysis = analyse(evaluator, "bbox", resamplings=20)
    draw = Pictures(evaluator, folder / "images", "bbox", analysis.operating_point["threshold"])
    worst = [(row, draw.truth_and_prediction(row.image_id, row.file_name)) for row in analysis.by_image[:3]]
    suspects = [(one, draw.suspect(one)) for one in analysis.suspects[:2]]
    return page([analysis], {"model": "a/b/best.ckpt", "annotations": "val <1>.json"}, worst, suspects, BESIDE)


def test_it_is_whole_and_needs_nothing_else(html):
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert reader.outside == BESIDE  # files of the same folder
    assert {"bbox", "worst", "about"} <= reader.ids
    assert "http:" not in html
    assert "https:" not in html


def test_names_are_escaped(html):
    assert "&lt;bird&gt;" in html
    assert "<bird>" not in html
    assert "val &lt;1&gt;.json" in html


def test_the_numbers_stand_there_without_a_script(html, evaluator):
    reader = Reader()
    reader.feed(html.split("<script>")[0])
    text = " ".join(reader.text)
    assert f"{100 * evaluator.evaluate()['bbox/AP']:.1f}" in text
    assert "cat" in text
    assert "dog" in text


def test_a_number_without_objects_has_no_interval_on_the_page(html):
    cards = dict(re.findall(r"<span>(\w+)</span><b>(.*?)<em>", html))
    assert cards["APl"] == "–</b>"
    assert " to " in cards["AP"]


def test_pictures_are_inside_and_a_missing_image_is_no_error(html, evaluator, folder):
    assert html.count("data:image/jpeg;base64,") >= 3
    analysis = analyse(evaluator, "bbox", resamplings=0)
    draw = Pictures(evaluator, folder / "images", "bbox", 0.5)
    assert draw.truth_and_prediction(analysis.by_image[0].image_id, "missing.png") is None
    assert draw.outcome(analysis.by_image[0].image_id, "missing.png") is None
    here = Suspect(2, "2.png", "nothing is annotated", 0.9, "cat", "", 0.0, [10.0, 10, 30, 30])
    assert draw.suspect(here).url.startswith("data:image/jpeg")
    assert draw.suspect(replace(here, file_name="missing.png")) is None


def test_labels_are_the_usual_terms(html):
    for label in (
        "Error analysis (TIDE)", "ΔAP50 if fixed", "Calibration (reliability diagram)", "precision in bin",
        "Confusion matrix", ">predicted</th>", "<span>true</span>", "Recommended score threshold",
        "AP by objects per image",
        "background (false positive)", "localisation", "classification", "duplicate",
    ):  # fmt: skip
        assert label in html, label


def test_one_sentence_sums_up(evaluator):
    analysis = analyse(evaluator, "bbox", resamplings=20)
    value, (low, high) = analysis.numbers["AP"].value, analysis.numbers["AP"].interval
    sentence = summary([analysis], {"detector": "Mask R-CNN", "results": "a/b/c.json"})
    assert sentence.startswith(f"Mask R-CNN on 24 images: box AP {100 * value:.1f} ({100 * low:.1f}–{100 * high:.1f})")
    assert "; the largest loss is " in sentence
    flawless = replace(analysis, errors=dict.fromkeys(analysis.errors, 0.0))
    assert summary([flawless], {"results": "a/b/c.json"}).endswith("%).".replace("%", f"{100 * high:.1f}"))
    assert detector_of({"results": "a/b/c.json"}) == "b/c.json"
    assert detector_of({"results": "c.json", "name": "mine"}) == "mine"
    usual = page([analysis], {"results": "c.json", "annotations": "a/nuclei/annotations/instances_val.json"})
    assert "<title>Evaluation: c.json on nuclei (val)</title>" in usual


def test_versions_come_before_checksums(evaluator):
    about = {"model": "m", "annotations_sha256": "abc", "rcnn_toolkit": "1.0", "torch": "2.0", "python": "3.11"}
    html = page([analyse(evaluator, "bbox", resamplings=0)], about)
    place = [html.index(one) for one in (">model<", "<h3>Versions</h3>", ">torch<", "<h3>Checksums</h3>", ">abc<")]
    assert place == sorted(place)


def test_colors_say_what_was_found_missed_and_wrong(folder, truth):
    evaluator = CocoEvaluator(truth, ["bbox"], image_ids="all")
    hit, missed = [a for a in truth["annotations"] if a["image_id"] == 2]
    result = {"image_id": 2, "category_id": hit["category_id"], "bbox": hit["bbox"], "score": 0.9}
    evaluator.add_results([result, result | {"score": 0.8}, result | {"score": 0.1}])
    draw = Pictures(evaluator, folder / "images", "bbox", 0.5)
    assert [one["color"] for one in draw._truth[2]] == [FOUND, MISSED]
    assert [one["color"] for one in draw._found[2]] == [FOUND, WRONG]  # found twice; the third scores too low
    assert missed["id"] == draw._truth[2][1]["id"]


def test_a_dark_image_is_stretched_and_the_page_says_so(evaluator, folder, tmp_path):
    analysis = analyse(evaluator, "bbox", resamplings=0)
    row = analysis.by_image[0]
    cv2.imwrite(str(tmp_path / row.file_name), np.random.default_rng(0).integers(0, 30, (120, 160, 3), np.uint8))
    pair = Pictures(evaluator, tmp_path, "bbox", 0.5).truth_and_prediction(row.image_id, row.file_name)
    assert "contrast stretched" in page([analysis], {"model": "m"}, [(row, pair)])
    assert not Pictures(evaluator, folder / "images", "bbox", 0.5).outcome(row.image_id, row.file_name).stretched

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from detection.report.analysis import analyse
from detection.report.page import page
from detection.report.pictures import Pictures

VOID = {"meta", "img", "br", "path"}


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
    worst = [(row, draw.truth_and_prediction(row)) for row in analysis.by_image[:3]]
    suspects = [(one, draw.suspect(one)) for one in analysis.suspects[:2]]
    return page([analysis], {"model": "a/b/best.ckpt", "annotations": "val <1>.json"}, worst, suspects)


def test_it_is_whole_and_needs_nothing_else(html):
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert reader.outside == []
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
    assert draw.truth_and_prediction(replace(analysis.by_image[0], file_name="missing.png")) is None

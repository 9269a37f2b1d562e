"""The page of ``rcnn serve`` in a real browser: an image is dropped, and its objects appear."""

import base64
import json
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from tests.detection.serve.test_load import images, model, start  # noqa: F401  # fixtures
from tests.support.browser import CHROMIUM, browser
from tests.support.serving import encoded

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]

DROP = """(() => {
  const bytes = Uint8Array.from(atob("%s"), sign => sign.charCodeAt(0)), data = new DataTransfer();
  data.items.add(new File([bytes], "%s"));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
})()"""
ROWS = "document.querySelectorAll('#objects tr').length"
INK = """(() => {
  const canvas = document.getElementById("canvas"), ctx = canvas.getContext("2d");
  const all = ctx.getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(new Uint32Array(all.buffer)).size;
})()"""


@pytest.fixture(scope="module")
def page(start, tmp_path_factory):  # noqa: F811
    with start() as server, browser(tmp_path_factory.mktemp("profile")) as page:
        page.address = f"http://127.0.0.1:{server.port}/"
        yield page


def drop(page, data, name="street.png"):
    page.evaluate(DROP % (base64.b64encode(data).decode(), name))


def click(page, what):
    page.evaluate(f"document.querySelector({json.dumps(what)}).click()")


def set_score(page, score):
    slider = 'document.getElementById("score")'
    page.evaluate(f"{slider}.value = {score}; {slider}.dispatchEvent(new Event('input'))")


@pytest.mark.parametrize("width", [1280, 400])
def test_a_dropped_image_shows_its_objects(page, tmp_path, width):
    gray = np.full((100, 140, 3), 128, np.uint8)
    page.open(page.address, width)
    page.wait("document.getElementById('model').textContent.includes('Mask R-CNN, 3 classes')")
    assert page.evaluate(ROWS) == 0
    drop(page, encoded(gray))
    page.wait(f"{ROWS} > 0")
    rows = page.evaluate(ROWS)
    assert rows == page.evaluate("found.detections.length") == 10
    assert page.evaluate(INK) > 5  # boxes, masks and names on one gray
    label = "document.getElementById('canvas').getAttribute('aria-label')"
    assert page.evaluate(label).startswith("The image with 10 objects: ")
    middle = page.evaluate("found.detections[4].score")
    set_score(page, 0.01 * np.floor(100 * middle))
    assert 5 <= page.evaluate(ROWS) <= 10
    set_score(page, 1)
    assert page.evaluate(ROWS) == 0
    assert page.evaluate(INK) == 1
    set_score(page, 0)
    click(page, "#classes input")
    assert page.evaluate(ROWS) == page.evaluate("found.detections.filter(one => !hidden.has(one.label)).length") < 10
    click(page, "#none")
    assert page.evaluate(ROWS) == 0
    click(page, "#all")
    assert page.evaluate(ROWS) == 10
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert page.complaints == []


def test_masks_are_those_of_the_server(page, images):  # noqa: F811
    from pycocotools import mask as coco_mask

    page.open(page.address)
    page.wait("model.classes.length === 3")
    drop(page, encoded(images[0]))
    page.wait(f"{ROWS} > 0")
    for one in page.evaluate("found.detections.map(one => one.mask)"):
        expected = coco_mask.decode(one).flatten(order="F")
        lengths = page.evaluate(f"runs({json.dumps(one['counts'])})")
        assert np.array_equal(np.repeat(np.arange(len(lengths)) % 2, lengths), expected)


def test_the_download_has_the_objects_that_are_shown(page, images, tmp_path):  # noqa: F811
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.open(page.address)
    page.wait("model.classes.length === 3")
    drop(page, encoded(images[0]), "two.png")
    page.wait(f"{ROWS} > 0")
    set_score(page, 0.01 * np.floor(100 * page.evaluate("found.detections[4].score")))
    rows = page.evaluate(ROWS)
    assert rows >= 5
    click(page, "#json")
    file, end = tmp_path / "two.json", time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    content = json.loads(file.read_text())
    assert len(content["detections"]) == rows
    assert content["detections"][0].keys() == {"name", "label", "score", "box", "mask"}


def test_an_error_is_shown(page):
    page.open(page.address)
    drop(page, b"no image", "notes.txt")
    page.wait("!document.getElementById('error').hidden")
    assert page.evaluate("document.getElementById('error').textContent").startswith("No image of a known format")
    assert page.evaluate("document.getElementById('panel').hidden")
    page.complaints.clear()  # the browser logs the status 415


def test_the_camera_gives_an_image(page):
    page.open(page.address)
    page.wait("model.classes.length === 3")
    click(page, "#camera")
    page.wait("document.getElementById('video').videoWidth > 0 && !document.getElementById('video').hidden")
    assert page.evaluate("document.getElementById('camera').textContent") == "Take the photo"
    click(page, "#camera")
    page.wait("document.getElementById('status').textContent.startsWith('camera.jpg: ')")
    assert page.evaluate("document.getElementById('video').srcObject") is None
    assert page.evaluate("document.getElementById('canvas').hidden") is False
    assert page.complaints == []


def test_every_control_has_a_name(page):
    page.open(page.address)
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input:not([aria-hidden])')].filter(one =>"
        " !one.textContent.trim() && !(one.labels && one.labels.length && one.labels[0].textContent.trim()))"
        ".map(one => one.outerHTML)"
    )
    assert unnamed == []

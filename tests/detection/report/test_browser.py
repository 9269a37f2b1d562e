"""All pages in a real browser: nothing is wider than the window, and the numbers need no JavaScript."""

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from detection.shapes import write_shapes
from tests.support.commands import browse, compare, doctor, evaluate

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
MEASURE = "<script>top.document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
NO_SCRIPT = '<head><meta http-equiv="Content-Security-Policy" content="script-src \'none\'">'

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]


@pytest.fixture(scope="module")
def pages(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    pytest.importorskip("hotcoco", reason="the report is hotcoco's")
    out = tmp_path_factory.mktemp("pages")
    for name in ("a", "b"):
        evaluate(
            [str(folder / "results.json"), "--annotations", str(folder / "truth.json"), "--images"]
            + [str(folder / "images"), "--output", str(out / name), "--resamplings", "20"]
        )
    compare([str(out / "a"), str(out / "b"), "--resamplings", "20", "--output", str(out)])
    data = ["--config", "demo", "--data.root", str(write_shapes(out / "shapes", 12, 4))]
    doctor([*data, "--html", str(out / "doctor.html")])
    browse([*data, "--number", "3", "--views", "2", "--output", str(out)])
    paths = {name: out / f"{name}.html" for name in ("comparison", "doctor", "browse")}
    paths["report"] = out / "a" / "report.html"
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}


def shown(html: str, folder: Path) -> str:
    """The page as the browser holds it after loading."""
    (folder / "page.html").write_text(html, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *QUIET, f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1400,800", "--dump-dom", (folder / "page.html").as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["report", "comparison", "doctor", "browse"])
def test_nothing_is_wider_than_the_window(pages: dict[str, str], tmp_path: Path, name: str, width: int) -> None:
    inner = escape(pages[name].replace("</body>", MEASURE))
    # A frame, because a window is never narrower than 500 pixels.
    frame = f'<iframe scrolling="no" style="width: {width}px; height: 800px; border: 0" srcdoc="{inner}"></iframe>'
    html = shown(f"<!doctype html><head><title></title></head><body>{frame}</body>", tmp_path)
    assert re.search(r"<title>(.*?)</title>", html).group(1) == f"{width} of {width}"


def test_javascript_only_sorts_and_enlarges(pages: dict[str, str], tmp_path: Path) -> None:
    texts = []
    for html, live in ((pages["report"], True), (pages["report"].replace("<head>", NO_SCRIPT), False)):
        seen = shown(html, tmp_path)
        assert ('class="sortable live"' in seen) == live
        texts.append(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<script.*?</script>", "", seen)).split())
    assert texts[0] == texts[1]
    assert len(texts[0]) > 200

"""The documentation site: the navigation contains every page, and code generates the tables."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
NOTEBOOKS = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.ipynb")}


def tool(name: str) -> ModuleType:
    """A module of ``tools/docs``, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    return tool("pages")


def listed(entry: object) -> list[str]:
    """The pages of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in listed(part)]  # type: ignore[attr-defined]


def test_the_navigation_has_every_page_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    generated = {page for page in listed(settings["nav"]) if page.endswith("-notebook.md")}
    in_repository = [page for page in listed(settings["nav"]) if not page.startswith("project/")]
    assert sorted(page for page in in_repository if page not in generated) == PAGES
    assert {page.replace("-notebook.md", ".ipynb") for page in generated} == NOTEBOOKS


def test_llms_txt_has_every_page_once() -> None:
    text = (ROOT / "llms.txt").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^- \[[^\]]+\]\(docs/([^)]+)\): .+$", text, flags=re.M)) == PAGES


def test_every_table_that_a_page_asks_for_is_made(pages: ModuleType) -> None:
    asked = {name for page in PAGES for name in pages.MARK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))}
    assert asked == set(pages.TABLES)


def test_the_tables_hold_what_the_code_has(pages: ModuleType) -> None:
    from backbones import available
    from detection import list_configs

    tables = pages.configs() + pages.config_parts()
    assert all(f"| `{config.name}` | " in tables for config in list_configs())
    assert "| 42.9 | 38.6 |  | detectron2 MODEL_ZOO.md, mask_rcnn_R_101_FPN_3x |" in tables
    assert all(f"`{name}`" in pages.backbones() for name in available())
    assert all(f"usage: rcnn {name} " in pages.commands() for name in ("train", "predict", "backbones show"))
    settings = pages.settings()
    for line in (
        "| `model.backbone.name` | `resnet50` | `str` |",
        "| `model.rpn.nms_threshold` | `0.7` | `float` |",
        "| `data.batch_size` | `16` | `int` | Images per optimizer step",
        "| `run.early_stopping` | `null` |",
    ):
        assert line in settings, line
    assert "data.few_canvases" not in settings
    assert not re.search(r"\|  \|$", settings, flags=re.M), "a setting without a meaning"


def test_the_page_of_results_has_the_measurements() -> None:
    results = tool("results")
    texts, measured = [path.read_text(encoding="utf-8") for path in results.PAGES], results.measured()
    places = {found[1] for text in texts for found in results.PLACE.finditer(text)}
    assert places == set(measured) == set(results.TABLES)
    assert [results.page(text, measured) for text in texts] == texts, "run python tools/docs/results.py"
    text = texts[0]
    assert all((results.PAGE.parent / row["page"]).is_file() for row in measured["training"])
    measured["training"][0]["toolkit"] = 12345
    assert "| [NVIDIA H200](h200.md), bf16 | 800 px, 16 | 12345 images/s |" in results.page(text, measured)


@pytest.mark.parametrize(
    ("text", "origin", "source", "expected"),
    [
        ("[a](../index.md#b)", "docs/how-to/x.md", "how-to/x.md", "[a](../index.md#b)"),
        ("[a](../../SECURITY.md)", "docs/how-to/x.md", "how-to/x.md", "[a](../project/security.md)"),
        ("[a](docs/index.md)", "CONTRIBUTING.md", "project/contributing.md", "[a](../index.md)"),
        ("[`a`](../../setup.py)", "docs/how-to/x.md", "how-to/x.md", "`a`"),
        ("[a](../../setup.py)", "docs/how-to/x.md", "how-to/x.md", "a (`setup.py`)"),
        ("[a](nowhere.md)", "docs/how-to/x.md", "how-to/x.md", "[a](nowhere.md)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(
    pages: ModuleType, text: str, origin: str, source: str, expected: str
) -> None:
    assert pages.LINK.sub(lambda found: pages.site_link(found[1], found[2], found[3] or "", origin, source), text) == (
        expected
    )


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_a_notebook_becomes_a_page(pages: ModuleType, name: str) -> None:
    text = pages.notebook_page(ROOT / "docs" / name)
    assert text.startswith("# ")
    assert f"`docs/{name}`" in text.splitlines()[2]
    assert text.count("```python\n") == text.count("\n```\n") >= 5


def test_links_to_other_sites_stay(pages: ModuleType) -> None:
    assert not pages.LINK.search("[a](https://github.com/a/b) ![b](images/c.jpg) [c](#d)")


def test_examples_of_docstrings_are_code(pages: ModuleType) -> None:
    quoted = "<blockquote>\n" * 3 + "<p>f(x)  # doctest: +SKIP\n3</p>" + "</blockquote>\n" * 3
    assert pages.on_page_content(quoted, None, None, None) == "<pre><code>f(x)\n3</code></pre>"
    roles = "as :func:<code>~detection.inference.predict</code> and <code>~/data</code>"
    assert pages.on_page_content(roles, None, None, None) == "as <code>predict</code> and <code>~/data</code>"

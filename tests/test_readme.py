"""The files, commands and modules that the documents name exist."""

import ast
import importlib
import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from detection import Prediction, list_models, load_model, mask_rcnn, predict, save_model
from detection.commands.main import COMMANDS, OLD, parse, parser_of
from detection.commands.settings import check_settings
from detection.engine.configs import names_of_configs, read_config
from detection.models.box_head import BoxHeadConfig
from detection.models.fpn import FPNConfig
from detection.shapes import write_shapes
from tests.support.documents import blocks, command_lines

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "llms.txt"),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
]
PYTHON = "docs/how-to/python.md"
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
EVERYTHING = "\n".join(TEXTS.values())
TO_TYPE = "\n".join(text for name, text in TEXTS.items() if name != "docs/tutorials/transcript.md")
"""Pages whose commands a reader types; test_wheel.py runs the lines of the transcript."""
MADE_BY_THE_READER = (
    "classes_val.md",  # of a run
    "flowers/",
    "val/CLASS",
    "predictions/",
    "my_data",
    "train/",
    "my_lab",
    "demo/",
    "runs/",
    "timm/",
    ".venv",
    "evaluation/",
    "summary.md",  # of a run
    "path/to",
    "...",
    "config.yaml",
    "data.yaml",
    "annotations/",
    "images/",
    "checkpoints/",
    "weights/",
    "predictions/",
    "browse/",
    "site/",
    "comparison/",
    "val/",
    "ImageSets/",
    "NAME",
    "args.yaml",
    "card.md",
    "image/",  # media types
    *("references/", "tools/analysis_tools/", "tools/slurm_train.sh"),
)
"""Beginnings of names that a checkout does not have: files of a reader, metrics, files of other toolkits."""


def found(pattern: str) -> list[str]:
    matches = sorted(set(re.findall(pattern, EVERYTHING)))
    assert matches, f"nothing in the documents looks like {pattern}; does this test still read them rightly?"
    return matches


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", TEXTS[name]):
        assert target.startswith("https://") or (ROOT / name).parent.joinpath(target).exists(), target


def test_paths_in_backticks_exist() -> None:
    # A bare file name belongs to the folder named before it in the same line: `ops/nms.py`, `boxes.py`.
    known = {path.name for package in ("backbones", "detection", "tests") for path in (ROOT / package).rglob("*.py")}
    for path in found(r"`([\w./-]+\.(?:py|yaml|md|toml))`") + found(r"`([\w.-]+(?:/[\w.-]+)+/?)`"):
        if not path.startswith(MADE_BY_THE_READER):
            assert (ROOT / path).exists() or path in known or path in names_of_configs(), path


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in found(r"\bmake ([a-z-]+)(?=\s{2,}|`|\n)"):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


LINES = command_lines(TO_TYPE)


def known_settings() -> set[str]:
    """Every setting that the reference lists."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "tools" / "docs" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    return set(re.findall(r"^\| `([\w.]+)` \|", pages.settings(), flags=re.M))


def test_settings_on_command_lines_exist() -> None:
    known = known_settings()
    parents = {name.rpartition(".")[0] for name in known}
    given = {word.split("=")[0].lstrip("-").rstrip("+") for words in LINES for word in words if "--" in word}
    given = {re.sub(r"^data\.(?:val|test)\.", "data.train.", name) for name in given}  # the reference lists one split
    dotted = {name for name in given if "." in name and not name.startswith("trainer.")}
    assert dotted
    assert sorted(dotted - known - parents) == []


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_commands_take_their_options(words: list[str]) -> None:
    name = OLD.get(words[1], words[1])
    if name.startswith("-"):
        return
    assert name in COMMANDS, name
    module = importlib.import_module(f"detection.commands.{name}")
    takes_settings = getattr(module, "TAKES_SETTINGS", False)
    options = parse(parser_of(name, module), getattr(module, "prepare", list)(words[2:]), settings=takes_settings)
    if takes_settings:
        check_settings(options.rest)
    if name == "train" and options.config is not None:
        assert read_config(options.config).settings


def test_commands_in_sentences_exist() -> None:
    for name in found(r"`rcnn ([a-z]+)[ `]"):
        assert OLD.get(name, name) in COMMANDS, name


def test_tools_exist() -> None:
    for tool in found(r"python (tools/\w+\.py)"):
        assert (ROOT / tool).is_file(), tool


def test_configs_exist() -> None:
    for config in found(r"--config ([\w/.-]+)"):
        if not config.startswith(MADE_BY_THE_READER) and not config.isupper():  # NAME stands for any
            assert config in names_of_configs(), config


@pytest.mark.parametrize("block", blocks(EVERYTHING, "python"))
def test_python_compiles_and_its_names_exist(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                named = getattr(module, alias.name, None)
                assert callable(named) or isinstance(named, ModuleType), f"from {node.module} import {alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


def test_the_plain_training_loop_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (loop,) = [block for block in blocks(EVERYTHING, "python") if "optimizer.step()" in block]
    write_shapes(tmp_path / "my_data", train=2, val=1)
    monkeypatch.chdir(tmp_path)
    # The same loop on small images, with a smaller network that begins from nothing.
    for given, small in (
        ('"resnet50", weights="imagenet", norm="frozen", freeze=2', '"resnet10"'),
        ("800, 1333", "96, 160"),
    ):
        assert given in loop
        loop = loop.replace(given, small)
    names: dict[str, Any] = {}
    exec(loop, names)
    assert names["loss"].isfinite()
    model = load_model("mine.ckpt")
    found = predict(model, next(Path("my_data/val").iterdir()), score_threshold=0.0)
    assert (model.test_size, model.categories) == ((96, 160), names["annotations"].categories)
    assert {found.name(i) for i in range(len(found))} <= set(model.categories.names)


def test_the_page_on_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom in one program, with a small detector instead of a published one."""
    page = "\n".join(re.findall(r"```python\n(.*?)```", TEXTS[PYTHON], flags=re.S))
    write_shapes(tmp_path / "my_data", train=1, val=3)
    torch.manual_seed(0)
    head = BoxHeadConfig(hidden=16, score_threshold=0.0, detections=5)
    small = mask_rcnn("resnet10", fpn=FPNConfig(channels=16), box_head=head, categories=["person", "car"])
    small.test_size = (64, 96)
    save_model(small, tmp_path / "small.ckpt")
    shutil.copy(next((tmp_path / "my_data" / "val").glob("*.jpg")), tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    for given, instead in (
        ('"torchvision:maskrcnn_resnet50_fpn_v2", device="auto"', '"small.ckpt", device="cpu"'),
        ("score_threshold=0.6", "score_threshold=0.0"),
        ("batch_size=8", "batch_size=8, score_threshold=0.0"),
    ):
        assert given in page
        page = page.replace(given, instead)
    names: dict[str, Any] = {}
    exec(page, names)
    assert len(names["predictor"].predict("street.jpg", score_threshold=0.0)) == 5
    assert set(names["predictor"].classes) == {"person", "car"}
    assert (tmp_path / "found.jpg").stat().st_size > 0


def test_the_methods_that_the_page_on_python_names_exist() -> None:
    called = set(re.findall(r"`found\.(\w+)", TEXTS[PYTHON]))
    assert {"to_coco", "crop", "boxes"} <= called
    assert {name for name in called if not hasattr(Prediction, name)} <= set(Prediction.__annotations__)


def test_readme_names_the_python_that_setup_requires() -> None:
    required = re.search(r'python_requires=">=([\d.]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert required
    assert f"Python {required[1]} or newer" in TEXTS["README.md"]


def test_the_number_of_pretrained_detectors_is_told() -> None:
    count = len(list_models())
    assert f"{count} pretrained detectors" in TEXTS["README.md"].replace("\n", " ")
    assert f"loads {count} detectors of" in (ROOT / "docs/index.md").read_text(encoding="utf-8")

"""The packages of a release: built from a copy of the sources, installed in a new environment, and used."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BUILT = ("detection", "backbones", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def run(*command: object, folder: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder with the wheel and the sdist."""
    sources = tmp_path_factory.mktemp("sources")
    for name in BUILT:
        place = sources / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place)
    run(sys.executable, "setup.py", "-q", "sdist", folder=sources)
    run(sys.executable, "setup.py", "-q", "bdist_wheel", folder=sources)
    return sources / "dist"


@pytest.fixture(scope="module")
def python(dist, tmp_path_factory):
    """An interpreter with the wheel and the packages of this environment, but without the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    site = next(folder.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    return folder / "bin" / "python"


def test_the_wheel_and_the_sdist_hold_the_same_sources(dist):
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        in_wheel = {name for name in wheel.namelist() if ".dist-info/" not in name}
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        in_sdist = {name.partition("/")[2] for name in sdist.getnames()}
    moved = {name.removeprefix("detection/") if name.startswith("detection/configs/") else name for name in in_wheel}
    assert moved <= in_sdist
    assert {"LICENSE", "README.md", "setup.py", "pyproject.toml"} <= in_sdist
    for ending in (".c", ".css", ".html", ".js", ".yaml", "py.typed"):
        assert any(name.endswith(ending) for name in in_wheel), ending
    for path in (*ROOT.glob("detection/**/*.py"), *ROOT.glob("backbones/**/*.py")):
        assert path.relative_to(ROOT).as_posix() in in_wheel
    configs = {f"detection/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("configs/**/*.yaml")}
    assert configs == {name for name in in_wheel if name.startswith("detection/configs/") and name.endswith(".yaml")}


def test_the_installed_package_works_without_the_checkout(python, tmp_path):
    where = run(python, "-c", "import detection; print(detection.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])
    assert "fit" in run(python, "-m", "detection", "--help", folder=tmp_path)
    config = run(
        python, "-m", "detection", "fit", "--config", "mask_rcnn_r50_fpn_1x_coco", "--print_config", folder=tmp_path
    )
    assert "resnet50" in config
    listed = run(python, "-m", "detection", "configs", "list", "mask_rcnn_r101_fpn_3x_coco", folder=tmp_path)
    assert "base/mask_rcnn + backbones/r101 + schedules/3x + data/coco" in listed


@pytest.fixture(scope="module")
def transcript():
    spec = importlib.util.spec_from_file_location("transcript", ROOT / "tools" / "docs" / "transcript.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["transcript"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("data", ["shapes", "coco_mini"])
def test_a_stranger_trains_predicts_and_evaluates_with_the_wheel_alone(python, transcript, tmp_path, data, request):
    """Every line of the page docs/tutorials/transcript.md; the demo, which takes long, once."""
    source = request.getfixturevalue("shared_data") / data if data != "shapes" else None
    steps = tuple(one for one in transcript.STEPS if source is not None or "rcnn demo" not in one.lines)
    transcript.put_data(source, tmp_path, python)
    done = list(transcript.session(python, tmp_path, steps))
    page = transcript.page(iter(done), lambda text: transcript.cleaned(text, tmp_path))
    assert str(tmp_path) not in page
    missing = [name for name in transcript.MADE if not (tmp_path / name).exists()]
    assert missing == ([] if source is not None else ["demo/predictions.jpg"])
    printed = {line: text for _, line, text in done}
    assert "--resume" in "".join(printed)
    for form in ("COCO", "YOLO", "VOC"):
        assert any(f"{form} data set" in text for text in printed.values()), form


def test_the_page_shows_the_session_that_the_test_runs(transcript):
    if not transcript.PAGE.is_file():
        pytest.skip("no page: tools/docs/transcript.py has not written it yet")
    text = transcript.PAGE.read_text(encoding="utf-8")
    lines = [line for step in transcript.STEPS for line in step.lines]
    assert [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")] == lines

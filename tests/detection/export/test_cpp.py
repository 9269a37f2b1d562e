"""The C++ program of the documentation compiles, and finds what Python finds."""

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection import fast, predict
from detection.export.folder import export_folder
from detection.export.loading import load_exported
from detection.export.options import ExportOptions
from detection.shapes import draw_scene
from tests.support.exported_models import MODELS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "cpp.md"
PROGRAM = re.findall(r"```cpp\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]


def test_the_program_is_short_and_reads_what_an_export_returns():
    assert len(PROGRAM.splitlines()) <= 80
    assert re.findall(r'get_tensor\("(\w+)"\)', PROGRAM) == ["boxes", "scores", "labels"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openvino") is None or find_spec("onnxscript") is None, reason="needs the extra openvino")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs the C++ compiler g++")
def test_it_finds_what_python_finds(tmp_path):
    model = fast.convert(MODELS["retinanet"]()).eval()
    model.test_size = (96, 160)
    options = ExportOptions(format="openvino", preprocess="inside")
    file, gate = export_folder(model, tmp_path / "exported", options)
    assert gate.passed, gate.line()
    place = Path(find_spec("openvino").origin).parent
    libraries = list((place / "libs").glob("libopenvino.so.*"))
    if not libraries or not (place / "include").is_dir():
        pytest.skip("this package of OpenVINO has no headers or libraries")
    (tmp_path / "find.cpp").write_text(PROGRAM)
    build = ["g++", "-std=c++17", "find.cpp", f"-I{place / 'include'}", str(libraries[0])]
    subprocess.run([*build, f"-Wl,-rpath,{place / 'libs'}", "-o", "find"], cwd=tmp_path, check=True)
    image = draw_scene(5, 240, 321, np.random.default_rng(3))[0]
    cv2.imwrite(str(tmp_path / "image.ppm"), image[..., ::-1])
    command = [tmp_path / "find", file, tmp_path / "image.ppm", "0.1"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    reference, found = predict(load_exported(file), image, 0.1), np.array([line.split() for line in lines], float)
    assert len(found) > 5
    assert found[:, 0].tolist() == reference.labels.tolist()
    np.testing.assert_allclose(found[:, 1], reference.scores, atol=1e-5)
    np.testing.assert_allclose(found[:, 2:], reference.boxes, atol=1e-2)
    broken = subprocess.run([*command[:2], file], capture_output=True, text=True)
    assert broken.returncode == 1
    assert "is no binary PPM" in broken.stderr

"""Commands start quickly: they do not import slow modules that they do not need."""

import subprocess
import sys

import pytest

from detection import save_model
from detection.commands.main import COMMANDS
from tests.support.detectors import make_tiny

SLOW = {"lightning", "albumentations", "pandas", "torchvision", "sympy", "hotcoco", "jsonargparse", "matplotlib"}
"""Packages whose import takes longer than most commands."""

HEAVY = SLOW | {"torch", "numpy", "cv2", "PIL", "yaml", "pycocotools"}


def imported(code: str, *words: str) -> set[str]:
    """The packages that a new interpreter holds after some code."""
    end = "\nprint(' '.join({name.split('.')[0] for name in sys.modules} | ({'triton'} & set(sys.modules))))"
    program = f"import sys\n{code}{end}"
    found = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr
    return set(found.stdout.splitlines()[-1].split())


def run_of(*words: str) -> str:
    """Code that runs a command line and does not end the interpreter."""
    return f"from detection.commands.main import main\ntry:\n    main({list(words)})\nexcept SystemExit:\n    pass"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--epohcs", "3"], ["predict", "--scor", "1"]])
def test_help_and_wrong_options_import_nothing_that_takes_long(words):
    assert not imported(run_of(*words)) & HEAVY


def test_a_misspelt_setting_imports_nothing_that_takes_long():
    words = ["train", "mask_rcnn_r50_fpn_1x_coco", "--model.backbone.nmae", "resnet18"]
    assert not imported(run_of(*words)) & (HEAVY - {"yaml", "numpy"})


def test_the_list_of_published_models_needs_no_pytorch():
    assert not imported(run_of("models", "list")) & HEAVY


def test_the_help_of_every_command_imports_nothing_that_takes_long():
    code = "\n".join(run_of(name, "--help") for name in COMMANDS)
    assert not imported(code) & HEAVY


@pytest.mark.parametrize(
    "name",
    [
        "list_models",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("load_model", "predict", "save_model", "mask_rcnn", "Predictor")
        ),
    ],
)
def test_names_of_the_package_import_pytorch_and_little_else(name):
    assert not imported(f"from detection import {name}") & (SLOW | {"triton"})


def test_one_prediction_imports_neither_the_compiler_nor_torchvision(tmp_path):
    import cv2
    import numpy as np

    save_model(make_tiny("frozen"), tmp_path / "tiny.ckpt")
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((64, 64, 3), np.uint8))
    code = run_of("predict", str(tmp_path / "tiny.ckpt"), str(tmp_path / "image.png"), "-o", str(tmp_path / "out"))
    assert not imported(f"{code}\nassert 'torch._dynamo' not in sys.modules") & SLOW
    assert list((tmp_path / "out").iterdir())

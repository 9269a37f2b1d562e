"""C that is compiled where it is used, and all that may be missing for it."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones import compiled
from backbones.winograd import native

SOURCE = "#include <stdint.h>\nint64_t twice(int64_t x) { return 2 * x; }\n"
needs_compiler = pytest.mark.skipif(not native.usable(), reason="there is no C compiler")


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(compiled, "_warned", False)


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "with space.c"
    path.write_text(SOURCE)
    return path


@needs_compiler
def test_it_runs_and_leaves_nothing_behind(source, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled.tempfile, "tempdir", str(tmp_path))
    library = compiled.library(source)
    assert library is not None
    assert library.twice(ctypes.c_int64(21)) == 42
    assert os.listdir(tmp_path) == [source.name]


@needs_compiler
def test_arguments_of_every_kind(source):
    source.write_text(
        "#include <stdint.h>\n"
        "void fill(double *to, const float *from, int64_t n, double more, const float *nothing) {\n"
        "    for (int64_t i = 0; i < n; i++) to[i] = from[i] + more + (nothing ? 100 : 0);\n"
        "}\n"
    )
    to, given = np.zeros(3), torch.tensor([1.0, 2, 3])
    compiled.call(compiled.library(source), "fill", to, given, 2, 0.5, None)
    assert to.tolist() == [1.5, 2.5, 0]


@needs_compiler
def test_the_environment_names_the_compiler(source, monkeypatch):
    monkeypatch.setenv("CC", f"{shutil.which('cc')} -Dtwice=thrice")
    library = compiled.library(source)
    assert library is not None
    assert hasattr(library, "thrice")


MISSING = {
    "compiler": lambda patch: patch.setenv("CC", "no-such-compiler"),
    "a compiler that knows the options": lambda patch: patch.setenv("CC", "false"),
    "Linux": lambda patch: patch.setattr(platform, "system", lambda: "Darwin"),
    "x86-64": lambda patch: patch.setattr(platform, "machine", lambda: "aarch64"),
    "AVX2": lambda patch: patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT"),
    "PyTorch's OpenMP": lambda patch: patch.setattr(compiled, "_shares_openmp", lambda: False),
    "the wish": lambda patch: patch.setattr(compiled, "chosen", "0"),
}


@pytest.mark.parametrize("what", MISSING)
def test_without_this_there_is_none(what, source, monkeypatch):
    """Which is told where users can do something about it."""
    MISSING[what](monkeypatch)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert compiled.library(source) is None
        assert compiled.library(source) is None  # told once
    assert ["C compiler" in str(warning.message) for warning in told] == [True] * ("compiler" in what)


def test_the_environment_may_refuse():
    command = [sys.executable, "-c", "from backbones.winograd import native; print(native.usable())"]
    environment = os.environ | {"RCNN_COMPILED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"


@needs_compiler
def test_what_cannot_be_compiled_is_done_without_and_told(source):
    source.write_text("no C at all")
    with pytest.warns(UserWarning, match=r"with space\.c:1"):
        assert compiled.library(source) is None

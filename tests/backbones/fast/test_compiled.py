"""C code that is compiled at run time, and missing requirements for it."""

import ctypes
import errno
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.fast import compiled, switch
from backbones.fast.winograd import native

SOURCE = "#include <stdint.h>\nint64_t twice(int64_t x) { return 2 * x; }\n"
needs_compiler = pytest.mark.skipif(not native.usable(), reason="there is no C compiler")
needs_x86 = pytest.mark.skipif(
    not (
        platform.system() == "Linux"
        and platform.machine() == "x86_64"
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and compiled._shares_openmp()
    ),
    reason="no C is tried here",
)


@pytest.fixture(autouse=True)
def nothing_told_and_nothing_kept(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(compiled, "_warned", False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


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


def script(folder: Path, text: str) -> str:
    """A compiler of a few lines of shell; ``$out`` is where it should write."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\nfor out do :; done\n{text}\n")
    path.chmod(0o755)
    return str(path)


def library_in(folder: Path, length: int | None = None) -> str:
    """A compiler that writes a real library, or its first bytes."""
    cut = "" if length is None else f'\nhead -c {length} "$out" > "$out.cut"; mv "$out.cut" "$out"'
    return script(folder, f'cc "$@"{cut}')


ODD = {
    "no such program": lambda _: "no-such-compiler",
    "a folder": str,
    "a file that is no program": lambda folder: str(folder / "with space.c"),
    "an open quote": lambda _: "cc 'unclosed",
    "an argument that it rejects": lambda _: "cc --no-such-option-at-all",
    "a program that fails silently": lambda _: "false",
    "nothing is written": lambda _: "true",
    "an empty file": lambda folder: script(folder, ': > "$out"'),
    "a text": lambda folder: script(folder, 'echo "no library, but long enough for a header, is it not?" > "$out"'),
    "a folder is written": lambda folder: script(folder, 'mkdir "$out"'),
    "another format": lambda folder: script(folder, 'cc -c -x c "$(dirname "$0")/with space.c" -o "$out"'),
}


def why_not(**options) -> list[str]:
    """The warnings of a library that cannot be had, asked for twice."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert compiled.library(**options) is None
        assert compiled.library(**options) is None
    return [str(warning.message) for warning in warned]


@needs_x86
@pytest.mark.parametrize("what", ODD)
def test_an_odd_compiler_is_one_line_and_no_error(what, source, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", ODD[what](tmp_path))
    (line,) = why_not(source=source)
    assert "Could not compile C code (" in line
    assert "()" not in line
    assert "\n" not in line
    assert len(line) < 400


@needs_compiler
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.999])
def test_a_library_that_is_cut_short_is_never_loaded(part, source, tmp_path, monkeypatch):
    """The system's loader would end the process by SIGBUS."""
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", tmp_path / "whole.so"], check=True)
    monkeypatch.setenv("CC", library_in(tmp_path, int(part * (tmp_path / "whole.so").stat().st_size)))
    (line,) = why_not(source=source)
    assert "an incomplete library" in line


@needs_compiler
def test_a_library_without_the_functions_is_none(source, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", library_in(tmp_path))
    (line,) = why_not(source=source, functions=("twice", "thrice"))
    assert "has no function thrice" in line
    assert compiled.library(source, functions=("twice",)) is not None


@needs_x86
def test_a_compiler_that_hangs_ends_with_all_that_it_started(source, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "_SECONDS", 0.5)
    there = tmp_path / "child"
    monkeypatch.setenv("CC", script(tmp_path, f'sleep 300 & echo $! > "{there}"; wait'))
    start = time.monotonic()
    (line,) = why_not(source=source)
    assert "took more than 0.5 s" in line
    assert time.monotonic() - start < 30
    assert_gone(int(there.read_text()))


@needs_x86
def test_ctrl_c_while_it_compiles_ends_the_compiler(source, tmp_path, monkeypatch):
    there = tmp_path / "child"
    named = script(tmp_path, f'sleep 300 & echo $! > "{there}"; sleep 1; kill -INT {os.getpid()}; wait')
    monkeypatch.setenv("CC", named)
    with pytest.raises(KeyboardInterrupt):
        compiled.library(source)
    assert_gone(int(there.read_text()))


def assert_gone(pid: int) -> None:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":  # ended; the process that adopted it has not noticed
            return
        time.sleep(0.05)
    raise AssertionError(f"{pid} is still alive")


@needs_x86
@pytest.mark.parametrize("what", ["missing", "read-only", "a file"])
def test_without_a_writable_temporary_folder(what, source, tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    if what == "a file":
        folder.touch()
    if what == "read-only":

        def reject(*arguments, **options):
            raise OSError(errno.EROFS, "Read-only file system", str(folder))

        monkeypatch.setattr(compiled.tempfile, "mkdtemp", reject)
    monkeypatch.setattr(compiled.tempfile, "tempdir", str(folder))
    (line,) = why_not(source=source)
    assert str(folder) in line


@needs_x86
def test_what_a_compiler_says_reaches_no_terminal_raw(source, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", script(tmp_path, r"printf '\033[31m%2000d' 0; exit 1"))
    (line,) = why_not(source=source)
    assert line.isprintable()
    assert len(line) < 400


def test_only_the_first_of_several_ranks_warns(monkeypatch, recwarn):
    monkeypatch.setenv("LOCAL_RANK", "1")
    compiled._warn("no compiler")
    assert not recwarn


def test_a_system_without_proc_has_no_openmp_to_share(monkeypatch):
    def reject(self, **options):
        raise PermissionError(self)

    monkeypatch.setattr(Path, "read_text", reject)
    assert not compiled._shares_openmp()


ELSEWHERE = {
    "Linux": lambda patch: patch.setattr(platform, "system", lambda: "Darwin"),
    "x86-64": lambda patch: patch.setattr(platform, "machine", lambda: "aarch64"),
    "AVX2": lambda patch: patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT"),
    "PyTorch's OpenMP": lambda patch: patch.setattr(compiled, "_shares_openmp", lambda: False),
    "the wish": lambda patch: patch.setattr(switch, "words", lambda: frozenset({"no-c"})),
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_where_users_can_do_nothing_about_it_nothing_is_said(what, source, monkeypatch):
    ELSEWHERE[what](monkeypatch)
    assert why_not(source=source) == []


@pytest.mark.slow
def test_the_environment_may_switch_it_off():
    command = [sys.executable, "-c", "from backbones.fast.winograd import native; print(native.usable())"]
    environment = os.environ | {"RCNN_FAST": "no-c"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"


@needs_compiler
def test_a_failed_compilation_gives_a_warning_and_no_library(source):
    source.write_text("no C at all")
    with pytest.warns(UserWarning, match=r"with space\.c:1"):
        assert compiled.library(source) is None

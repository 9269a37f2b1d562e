"""Compiled libraries that later processes load."""

import ctypes
import os
from pathlib import Path

import pytest

from backbones.fast import compiled, kept_libraries
from backbones.fast.winograd import native

SOURCE = "#include <stdint.h>\nint64_t twice(int64_t x) { return 2 * x; }\n"
pytestmark = pytest.mark.skipif(not native.usable(), reason="there is no C compiler")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/rcnn-toolkit/compiled"


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "twice.c"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def runs(monkeypatch) -> list[list[str]]:
    """The commands that ran the compiler."""
    commands: list[list[str]] = []
    original = compiled._run

    def counted(command: list[str], folder: Path) -> None:
        commands.append(command)
        original(command, folder)

    monkeypatch.setattr(compiled, "_run", counted)
    return commands


def twice(source: Path, *flags: str) -> int:
    library = compiled.library(source, *flags)
    assert library is not None
    return library.twice(ctypes.c_int64(21))


def test_the_second_process_does_not_compile(source, runs, cache):
    assert twice(source) == twice(source) == 42
    assert len(runs) == 1
    (kept,) = cache.iterdir()
    assert kept.suffix == ".so"
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("what", ["source", "flags", "compiler", "cpu"])
def test_whatever_changes_the_library_compiles_again(what, source, runs, cache, monkeypatch, tmp_path):
    assert twice(source) == 42
    if what == "source":
        source.write_text(SOURCE.replace("2 * x", "3 * x"))
    if what == "compiler":
        script = tmp_path / "cc"
        script.write_text('#!/bin/sh\nexec cc "$@"\n')
        script.chmod(0o755)
        monkeypatch.setenv("CC", str(script))
    if what == "cpu":
        monkeypatch.setattr(kept_libraries, "_cpu", lambda: "another")
    assert twice(source, *(["-DANY"] if what == "flags" else [])) == (63 if what == "source" else 42)
    assert len(runs) == 2
    assert len([*cache.iterdir()]) == 2


def test_an_updated_compiler_compiles_again(source, runs, tmp_path, monkeypatch):
    script = tmp_path / "cc"
    script.write_text('#!/bin/sh\nexec cc "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    twice(source)
    os.utime(script, ns=(1, 1))
    twice(source)
    assert len(runs) == 2


@pytest.mark.parametrize("content", [b"", b"\x7fELF and so on", None])
def test_a_damaged_file_is_not_loaded(content, source, runs, cache):
    twice(source)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + b"\x01" if content is None else content)
    assert twice(source) == 42
    assert len(runs) == 2
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_to_is_not_used(mode, source, runs, cache):
    twice(source)
    cache.chmod(mode)
    twice(source)
    assert len(runs) == 2


def test_a_folder_of_another_user_is_not_used(source, runs, monkeypatch):
    twice(source)
    monkeypatch.setattr(kept_libraries.os, "getuid", lambda: os.geteuid() + 1)
    twice(source)
    assert len(runs) == 2


@pytest.mark.parametrize("what", ["a file", "no home"])
def test_without_a_folder_each_process_compiles(what, source, runs, tmp_path, monkeypatch):
    if what == "a file":
        (tmp_path / "cache").touch()
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(kept_libraries.Path, "home", no_home)
    assert twice(source) == twice(source) == 42
    assert len(runs) == 2


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_full_disk_leaves_nothing(source, cache, monkeypatch):
    def full(old, new):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_libraries.os, "replace", full)
    assert twice(source) == 42
    assert [*cache.iterdir()] == []


def test_a_relative_folder_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(kept_libraries.Path, "home", lambda: tmp_path)
    assert kept_libraries._folder() == tmp_path / ".cache/rcnn-toolkit/compiled"

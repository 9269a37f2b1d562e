"""The garbage collector is enabled again after a pause; the resident memory of a process, and kept memory."""

import gc
import os
import platform
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from detection import memory
from detection.commands import main
from detection.memory import LARGE, SMALL, glibc_setting, no_garbage_collection, resident

ROOT = Path(__file__).resolve().parents[2]
OWN = ("MALLOC_", "GLIBC_", "LD_PRELOAD")


def without(*settings: str) -> dict[str, str]:
    """The environment but for what begins so."""
    return {name: value for name, value in os.environ.items() if not name.startswith(settings)}


def printed(script: str, argument: str, environment: dict[str, str]) -> list[str]:
    """The lines that a script prints."""
    command = [sys.executable, "-c", script, argument]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=ROOT)
    return done.stdout.splitlines()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with no_garbage_collection():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()


def test_the_most_that_was_held_is_of_this_program_alone() -> None:
    large = b"1" * 300_000_000
    code = "from detection.memory import most_resident as most; print(most()); x = b'1' * 200_000_000; print(most())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    before, after = map(int, done.stdout.split())
    assert resident() >= len(large)
    assert before < 100_000_000
    assert 190_000_000 < after - before < 220_000_000


FAULTS = """
import resource, sys, torch
from detection.memory import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else None)
for i in range(24):
    if i == 16:  # the heap is then large enough
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the switch is glibc's")
def test_freed_memory_is_kept_unless_the_user_has_settings_of_his_own() -> None:
    def faults(choice: str) -> tuple[str, int]:
        said, number = printed(FAULTS, choice, without("MALLOC_"))
        return said, int(number)

    (said, kept), (_, given_back) = faults("keep"), faults("leave")
    asks = "from detection.memory import keep_freed_memory; print(keep_freed_memory())"
    left = printed(asks, "", without("MALLOC_") | {"MALLOC_ARENA_MAX": "2"})
    assert (said, left) == ("True", ["False"])
    assert kept < given_back / 4


PIECES = """
import resource, sys
import numpy as np
from detection.memory import keep_freed_memory, keep_freed_pieces
if sys.argv[1] != "leave":
    keep_freed_memory()
if sys.argv[1] == "pieces":  # a worker of a training that keeps everything
    keep_freed_pieces()
for number, size in ((16, 3 << 20), (1, 64 << 20)):
    for i in range(8):
        if i == 4:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        alive = [np.ones(size, np.uint8) for _ in range(number)]
        del alive
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the switch is glibc's")
def test_pieces_are_kept_and_what_is_larger_is_given_back():
    def faults(choice: str) -> list[int]:
        return [int(line) for line in printed(PIECES, choice, without("MALLOC_"))]

    (left, large_left), (kept, large_kept), (pieces, large) = faults("leave"), faults("keep"), faults("pieces")
    # NumPy asks for large pages for the large ones: 128 of them are told, and a few more.
    assert max(pieces, kept, large_kept) < 100 < min(left, large, large_left)


BEGINS = """
import os, sys
from detection.memory import restart_with_glibc_setting
print("begins", flush=True)
restart_with_glibc_setting()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_a_program_begins_again_once_as_it_was_begun(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(OWN)]:
        monkeypatch.delenv(name)
    settings = glibc_setting().get("GLIBC_TUNABLES")  # none on a machine with a GPU
    lines, pid = begin(tmp_path, ["-u", str(tmp_path / "begins.py")])
    assert lines == [*["begins"] * (2 if settings else 1), f"{pid} {settings} ['--option', 'a b', '*']"]


@pytest.mark.parametrize(
    ("command", "program", "begins"),
    [
        (["python", "tools/train.py", "fit"], ["tools/train.py", "fit"], True),
        (["python", "-u", "-O", "bin/rcnn"], ["bin/rcnn"], True),
        (["python", "-m", "detection", "fit"], ["/where/detection/__main__.py", "fit"], True),
        (["python", "bin/ipython"], ["tools/train.py", "fit"], False),
        (["python", "-m", "ipykernel_launcher", "-f", "a.json"], ["tools/train.py", "fit"], False),
        (["python", "launcher.py", "tools/train.py", "fit"], ["tools/train.py", "fit"], False),
        (["python", "-m", "scalene", "tools/train.py", "fit"], ["tools/train.py", "fit"], False),
        (["python", "-c", "run()", "fit"], ["-c", "fit"], False),
    ],
)
def test_who_runs_this_program_is_not_begun_again(command, program, begins):
    assert memory._began_with(command, program) is begins


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_a_program_with_settings_of_the_users_own_goes_on(name, tmp_path):
    lines, pid = begin(tmp_path, [str(tmp_path / "begins.py")], **{name: ""})
    assert lines == ["begins", f"{pid} {'' if name == 'GLIBC_TUNABLES' else None} ['--option', 'a b', '*']"]


@pytest.mark.parametrize("tool", ["train", "evaluate", "predict"])
def test_what_computes_begins_so(tool, monkeypatch, capsys):
    began: list[str] = []
    monkeypatch.setattr(main, "restart_with_glibc_setting", lambda: began.append(tool))
    monkeypatch.setattr(sys, "argv", [f"{tool}.py", "--wrong-option"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="__main__")
    assert end.value.code == 2
    assert began == [tool]


def test_a_help_text_needs_no_second_start(monkeypatch, capsys):
    monkeypatch.setattr(main, "restart_with_glibc_setting", lambda: pytest.fail("began again"))
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    assert main.command("train") == 0
    assert "usage" in capsys.readouterr().out


def begin(folder: Path, program: list[str], **settings: str) -> tuple[list[str], int]:
    """What a program prints, in an environment without settings, and its process."""
    environment = without(*OWN)
    (folder / "begins.py").write_text(BEGINS)
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"} | settings
    command = [sys.executable, *program, "--option", "a b", "*"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        out, _ = process.communicate(timeout=60)
        return out.splitlines(), process.pid


STEPS = """
import resource, sys, torch
from detection.memory import begin_training, go_on_training

def faults(megabytes):
    torch.ones(2**18 * megabytes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**18 * megabytes)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // (1024 * megabytes)  # of four

kept = [torch.ones(2**24)]
print(begin_training(), faults(2), faults(64))
print(go_on_training(float(sys.argv[1])), faults(2), faults(64))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the switch is glibc's")
@pytest.mark.parametrize(
    ("largest", "later"),
    [
        (SMALL - 1, (0, 1)),
        pytest.param(SMALL, (0, 0), marks=pytest.mark.slow),
        (LARGE, (0, 0)),
        pytest.param(LARGE + 1, (0, 1), marks=pytest.mark.slow),
    ],
)
def test_what_is_freed_is_kept_after_the_first_step_where_that_pays(largest, later):
    environment = without(*OWN)
    environment["GLIBC_TUNABLES"] = "glibc.malloc.tcache_count=0"  # or crumbs would have their part in it
    first, then = (line.split() for line in printed(STEPS, str(largest), environment))
    assert first == ["True", "1", "1"]
    assert then == ["True", *map(str, later)]


def test_memory_is_known_without_proc(monkeypatch):
    if sys.platform == "win32":
        pytest.skip("Windows has another way")
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    assert 1e6 < memory.resident() == memory.most_resident() < 1e12


def test_another_c_library_has_no_settings(monkeypatch):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown, raising=False)
    assert memory.glibc_setting() == {}
    monkeypatch.delattr(os, "confstr")
    assert memory.glibc_setting() == {}

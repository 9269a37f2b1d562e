"""Signals outside of a training."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from detection.engine import startup
from detection.memory import glibc_setting

ROOT = Path(__file__).resolve().parents[3]


def script(number: int, where: str, then: str = "") -> subprocess.CompletedProcess[str]:
    """A command line in which a function sends this process a signal."""
    text = (
        "import os, sys, signal\n"
        f"def send(*a, **k): os.kill(os.getpid(), {number:d})\n"
        f"{where}\n"
        "from detection.cli import main\n"
        f"code = main(['validate', '--config', 'demo'])\n{then}\n"
        "sys.exit(code)\n"
    )
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT, timeout=120)


IMPORTS = (
    "import importlib.abc\n"
    "class Finder(importlib.abc.MetaPathFinder):\n"
    "    def find_spec(self, name, *rest):\n"
    "        if name == 'torch': send()\n"
    "sys.meta_path.insert(0, Finder())"
)
PARSING = "import detection.engine.early_options as c; c.complete = send"
MADE_ANOTHER = (
    "import detection.engine.early_options as c\n"
    "def other(*a):\n"
    "    try: send()\n"
    "    except KeyboardInterrupt as error: raise ImportError('initialization failed') from error\n"
    "c.complete = other"
)


PLACES = {"imports": IMPORTS, "parsing": PARSING, "made another": MADE_ANOTHER}
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}
QUICK = list(zip(PLACES.values(), CODES.items(), strict=True))[:1]
"""One place and one signal; the other pairs are slow tests."""
OTHERS = [(where, each) for where in PLACES.values() for each in CODES.items() if (where, each) not in QUICK]


@pytest.mark.parametrize(
    ("where", "number", "code"),
    [(where, *each) for where, each in QUICK]
    + [pytest.param(where, *each, marks=pytest.mark.slow) for where, each in OTHERS],
)
def test_a_signal_during_the_start_is_one_line_and_the_code_of_a_shell(where, number, code):
    done = script(number, where)
    assert done.returncode == code
    assert done.stderr == f"error: stopped by {number.name}; no checkpoint was written at this point\n"


@pytest.mark.slow
def test_a_second_signal_ends_even_what_swallows_the_first():
    where = (
        "import detection.engine.early_options as c\n"
        "def swallow(*a):\n    try: send()\n    except KeyboardInterrupt: pass\n    send()"
    )
    done = script(signal.SIGINT, where + "\nc.complete = swallow")
    assert (done.returncode, done.stderr) == (130, "")


FIRST_IMPORT = """
import importlib.abc, os, runpy, signal, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *rest):
        if name == "detection.commands.main": os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
runpy.run_path("tools/train.py", run_name="__main__")
"""
RESTART = """
import os, signal, sys
replace = os.execve
def interrupted(*arguments):
    print("restarts", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    replace(*arguments)
os.execve = interrupted
from detection.__main__ import command
sys.exit(command())
"""


@pytest.mark.parametrize("text", [FIRST_IMPORT, RESTART])
def test_ctrl_c_is_one_line_from_the_first_import_on(text, tmp_path):
    """Also while the program replaces itself, when no handler is there yet."""
    path = tmp_path / "program.py"
    path.write_text(text)
    own = ("MALLOC_", "GLIBC_", "LD_PRELOAD")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, str(path), "validate", "--wrong"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    restarts = text == RESTART and bool(glibc_setting())
    assert done.stdout == "restarts\n" * restarts
    if restarts or text == FIRST_IMPORT:
        assert done.stderr == "error: stopped by SIGINT; no checkpoint was written at this point\n"
        assert done.returncode == 130


@pytest.mark.parametrize("where", ["data", "model"])
def test_a_signal_while_data_are_read_or_the_model_is_built(run, monkeypatch, capsys, where):
    target = {"data": "detection.engine.splits.load_annotations", "model": "detection.engine.module.build_detector"}
    monkeypatch.setattr(target[where], lambda *a, **k: os.kill(os.getpid(), signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    assert run("fit", "--run.folder", "out") == 130
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "SIGINT" in line] == [
        "error: stopped by SIGINT; no checkpoint was written at this point"
    ]
    assert not any("Traceback" in line or "KeyboardInterrupt" in line for line in lines)
    assert signal.getsignal(signal.SIGINT) == before


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with startup.ending_at_signals():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) == startup._end
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_leaves_signals_alone():
    found = []

    def look() -> None:
        with startup.ending_at_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_other_ranks_stay_silent(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert startup.report_stop() == 130
    assert not capsys.readouterr().err

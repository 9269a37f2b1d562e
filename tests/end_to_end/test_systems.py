"""Other operating systems, simulated: spawned workers, and Python without modules of Linux or POSIX."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detection.shapes import write_shapes

ROOT = Path(__file__).resolve().parents[2]

BARE = """
import ctypes, logging, multiprocessing, os, signal, sys

class Library(ctypes.CDLL):  # without the switches of glibc, as another C library
    def __init__(self, name=None, *rest, **options):
        super().__init__(name, *rest, **options)
        self.nameless = name is None

    def __getattr__(self, name):
        if name == "mallopt":
            raise AttributeError(name)
        return super().__getattr__(name)

ctypes.CDLL = Library
for module in ("fcntl", "resource"):
    sys.modules[module] = None
for name in ("fork", "forkpty", "killpg", "confstr", "confstr_names", "memfd_create", "sched_getaffinity", "statvfs"):
    if hasattr(os, name):
        delattr(os, name)
    vars(sys.modules.get("posix", os)).pop(name, None)
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "pthread_sigmask"):
    vars(signal).pop(name, None)

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    from detection.commands.main import main
    sys.exit(main(sys.argv[1:]))
"""
"""A program ``rcnn`` for such a system. Its workers are spawned, and begin with the same lines."""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "bare.py"
    path.write_text(BARE, encoding="utf-8")
    return path


def run(program, *words):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, env=environment, cwd=program.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_training_resuming_and_predicting_work_with_spawned_workers_and_without_posix(program, tmp_path):
    data = write_shapes(tmp_path / "data", train=8, val=4, size=96)
    run_folder = tmp_path / "run"
    small = ["--data.workers", "1", "--model.backbone.width", "16", "--trainer.val_check_interval", "null"]
    small += ["--trainer.check_val_every_n_epoch", "1"]
    line = ["train", "demo", "--output", run_folder, "--data.root", data, *small]
    run(program, *line, "--epochs", "1")
    assert (run_folder / "checkpoints" / "last.ckpt").is_file()
    run(program, *line, "--epochs", "2", "--resume")
    found = tmp_path / "found"
    run(program, "predict", run_folder, data / "val", "-o", found, "--save", "images", "json", "csv", "masks")
    assert (found / "results.json").is_file() or list(found.glob("*.json"))
    run(program, "evaluate", run_folder, "--data", data, "-o", tmp_path / "report", "--workers", "1")
    assert (tmp_path / "report" / "report.html").is_file()
    assert "images/s" in run(program, "benchmark", run_folder, "--rounds", "1")


@pytest.mark.slow
def test_the_other_commands_work_without_posix(program, tmp_path):
    run(program, "env")
    run(program, "doctor", write_shapes(tmp_path / "data", train=4, val=2, size=96), "-c", "demo")

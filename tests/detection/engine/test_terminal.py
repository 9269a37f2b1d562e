"""Progress on a pseudo-terminal, and in lines for a log file."""

import os
import re
import select
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from detection.engine.terminal import Bar, Lines, place

ROOT = Path(__file__).resolve().parents[3]


def make_trainer(**values) -> SimpleNamespace:
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.01}])
    found = {
        "global_step": 10,
        "max_steps": 50,
        "max_epochs": -1,
        "estimated_stepping_batches": 50,
        "accumulate_grad_batches": 1,
        "num_training_batches": 20,
        "current_epoch": 0,
        "world_size": 1,
        "enable_validation": False,
        "callbacks": [],
        "optimizers": [optimizer],
        "callback_metrics": {"train/loss": torch.tensor(1.5), "train/loss_cls": torch.tensor(1.0)},
        "fit_loop": SimpleNamespace(batch_idx=9),
        "sanity_checking": False,
        "state": SimpleNamespace(fn="fit"),
    }
    return SimpleNamespace(**found | values)


def step(progress, trainer, images: int = 2) -> None:
    progress.on_train_batch_start(trainer, None, None, 0)
    progress.on_train_batch_end(trainer, None, None, SimpleNamespace(images=range(images)), 0)


def clock(monkeypatch, progress) -> list[float]:
    now = [0.0]
    progress._training._clock = lambda: now[0]
    return now


def test_lines_for_a_log_file_have_the_end_of_the_run(capsys, monkeypatch):
    lines, trainer = Lines(seconds=0), make_trainer()
    now = clock(monkeypatch, lines)
    step(lines, trainer)
    now[0], trainer.global_step = 3.0, 11
    step(lines, trainer)
    assert capsys.readouterr().out.splitlines() == [
        "iteration 10/50  loss 1.5  lr 0.01  cls 1",
        "iteration 11/50  loss 1.5  lr 0.01  0.667 images/s  ETA 1:57  cls 1",  # 39 steps of 3 s
    ]


def test_lines_are_few(capsys):
    lines, trainer = Lines(seconds=1000), make_trainer()
    for _ in range(5):
        step(lines, trainer)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_evaluations_that_are_left_belong_to_the_end_of_the_run(capsys, monkeypatch):
    lines = Lines(seconds=0)
    trainer = make_trainer(enable_validation=True, val_check_batch=10, check_val_every_n_epoch=None)
    lines._evaluation = 100.0
    now = clock(monkeypatch, lines)
    for now[0] in (0.0, 3.0):
        step(lines, trainer)
    assert "ETA 8:40" in capsys.readouterr().out  # 40 steps of 3 s and evaluations at 20, 30, 40 and 50


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "iteration 10/50"),
        ({"max_steps": -1, "max_epochs": 12, "current_epoch": 2}, "epoch 3/12  batch 10/20"),
        ({"max_steps": -1, "max_epochs": -1}, "epoch 1  batch 10/20"),
        ({"max_steps": -1, "max_epochs": 3, "num_training_batches": float("inf")}, "epoch 1/3"),
    ],
)
def test_the_place_is_counted_as_the_schedule_counts(values, text):
    assert place(make_trainer(**values)).long == text


def test_an_evaluation_says_where_it_is(capsys):
    lines = Lines(seconds=0)
    trainer = make_trainer(num_val_batches=[7], state=SimpleNamespace(fn="validate"))
    lines.on_validation_start(trainer, None)
    lines.on_validation_batch_end(trainer, None, None, SimpleNamespace(images=range(2)), 0, 0)
    assert capsys.readouterr().out == "evaluating 1/7\n"


def test_other_ranks_show_nothing(capsys):
    bar = Bar()
    bar.setup(SimpleNamespace(is_global_zero=False), None, "fit")
    step(bar, make_trainer())
    assert capsys.readouterr() == ("", "")


def on_terminal(columns: int, command: list[str]) -> tuple[str, int]:
    """What a program writes to a terminal of this width, and its exit code."""
    import fcntl
    import pty
    import termios

    pid, descriptor = pty.fork()
    if pid == 0:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        os.execve(command[0], command, environment)
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    written, end = b"", time.monotonic() + 300
    while time.monotonic() < end:
        if select.select([descriptor], [], [], 1)[0]:
            try:
                written += os.read(descriptor, 1 << 16)
            except OSError:  # Linux: the program has ended
                break
    return written.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("columns", [60, 110, 200])
def test_a_run_on_a_terminal(columns, tiny_config, tmp_path):
    command = [sys.executable, "-m", "detection", "fit", "--config", str(tiny_config), "--run.folder", str(tmp_path)]
    text, code = on_terminal(columns, command)
    assert code == 0, text[-2000:]
    drawn = [part for part in re.split(r"[\r\n]+", text) if "loss" in part and "lr" in part]
    assert drawn
    for line in drawn:
        assert len(line.rstrip()) < columns
    for word in ("loss", "lr", "im", "ETA", "epoch 1/1"):
        assert word in drawn[-1]
    lines = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    for word in (
        "Training on CPU in float32",
        "Model: ",
        "Schedule: ",
        "Backbone ",
        "Training finished",
        "  Best: ",
        "bbox ",
    ):
        assert sum(line.startswith(word) for line in lines) == 1
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert all(line.isprintable() and len(line) < 200 for line in log)
    assert [line for line in lines if line.startswith(("Model: ", "bbox ", "  Best: "))] == [
        line for line in log if line.startswith(("Model: ", "bbox ", "  Best: "))
    ]
    for noise in ("TPU", "GPU available", "Tip", "Seed set", "`Trainer.fit`"):
        assert noise not in text


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there are no pseudo-terminals")
def test_an_error_on_a_terminal_has_a_line_of_its_own(tiny_config, tmp_path):
    script = (
        "import sys\n"
        "from detection.cli import main\n"
        "from detection.engine.errors import InputError\n"
        "from detection.engine.module import DetectionModule\n"
        "step = DetectionModule.training_step\n"
        "def fail(self, batch, index):\n"
        "    if index == 2: raise InputError('image 7 is broken')\n"
        "    return step(self, batch, index)\n"
        "DetectionModule.training_step = fail\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, "fit", "--config", str(tiny_config), "--run.folder", str(tmp_path)]
    text, code = on_terminal(110, command)
    assert code == 2
    assert re.search(r"(^|\n)error: image 7 is broken\r\n$", text)

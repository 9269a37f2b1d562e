"""Signals to a training: in this process, and to one of two ranks."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from detection.engine import checkpoint_io, listener, signals
from detection.engine.early_options import complete
from detection.engine.errors import InputError
from detection.engine.module import DetectionModule
from detection.run_files import read_table

ROOT = Path(__file__).resolve().parents[3]
STEPS = 8


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def losses(folder: Path) -> list[tuple[float, float, float]]:
    """Epoch, step and loss of each row of the run's table."""
    return [(row["epoch"], row["step"], row["train/loss"]) for row in read_table(folder / "train.csv")]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        *(pytest.param(*n, marks=pytest.mark.slow) for n in ((signal.SIGINT, 130), (signal.SIGUSR1, 138))),
    ],
)
def test_a_signal_saves_ends_the_run_and_is_the_exit_code(interrupted, tmp_path, capsys, number, code):
    before = signal.getsignal(number)
    assert interrupted(number, 2, "--run.folder", "out") == code
    assert torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert f"stopped by {number.name} after step 3; continue with --resume" in capsys.readouterr().err
    assert [row["step"] for row in read_table(tmp_path / "out/train.csv")] == [1, 2, 3]
    assert signal.getsignal(number) == before


@pytest.mark.slow
def test_a_run_that_saves_in_the_background_leaves_when_that_is_written(interrupted, tmp_path, monkeypatch):
    there, write = [], checkpoint_io.write_checkpoint

    def slowly(*arguments):
        time.sleep(0.5)
        return write(*arguments)

    monkeypatch.setattr(checkpoint_io, "write_checkpoint", slowly)
    last = tmp_path / "out/checkpoints/last.ckpt"
    monkeypatch.setattr(signals, "requeue", lambda number: there.append(last.is_file()))
    assert interrupted(signal.SIGTERM, 2, "--run.folder", "out", "--run.save_in_background", "true") == 143
    assert there == [True]


# In the middle of the first epoch, at its end, in the middle of the second epoch.
@pytest.mark.parametrize("at", [1, *(pytest.param(at, marks=pytest.mark.slow) for at in (3, 5))])
def test_what_was_stopped_goes_on_to_the_same_weights(interrupted, run, tmp_path, at):
    goes_on(interrupted, run, tmp_path, at)


def goes_on(interrupted, run, tmp_path, at):
    """Stop a training before a step and resume it: losses and weights are those of one that was not stopped."""
    length = ("--model.schedule.length", "2")
    assert run("fit", *length, "--run.folder", "whole") == 0
    assert interrupted(signal.SIGTERM, at, "--run.folder", "out") == 143
    assert run("fit", *length, "--run.folder", "out", "--resume", "auto") == 0
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = losses(tmp_path / "whole"), losses(tmp_path / "out")
    assert one == other


@pytest.mark.slow
def test_a_run_that_was_stopped_at_the_end_of_an_epoch_and_again_in_the_next(interrupted, run, tmp_path):
    assert run("fit", "--model.schedule.length", "2", "--run.folder", "whole") == 0
    assert interrupted(signal.SIGTERM, 3, "--run.folder", "out") == 143
    assert interrupted(signal.SIGTERM, 5, "--run.folder", "out", "--resume", "auto") == 143
    assert run("fit", "--model.schedule.length", "2", "--run.folder", "out", "--resume", "auto") == 0
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_run_that_began_from_weights_goes_on(interrupted, run, tmp_path, capsys):
    assert run("fit", "--run.folder", "first", "--model.fpn.channels", "8") == 0
    begin = ("--init-from", str(tmp_path / "first/checkpoints/last.ckpt"), "--run.folder", "second")
    assert interrupted(signal.SIGTERM, 2, *begin) == 143
    assert "Weights: " in capsys.readouterr().out
    assert run("fit", *begin, "--resume", "auto", "--model.schedule.length", "2") == 0  # the same line
    assert "Weights: " not in capsys.readouterr().out
    assert weights(tmp_path / "second")["model.fpn.lateral.0.0.weight"].shape[0] == 8
    assert torch.load(tmp_path / "second/checkpoints/last.ckpt", weights_only=True)["global_step"] == STEPS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "last"),
    [
        (("--data.batch_size", "4"), 4),  # 8 images an epoch: 4 of the first are done, then 1 + 2 steps
        (("--data.batch_size", "1"), 16),
        (("--trainer.accumulate_grad_batches", "2"), 8),
    ],
)
def test_another_batch_goes_on_where_the_images_were(interrupted, run, tmp_path, monkeypatch, options, last):
    seen = []
    step = DetectionModule.training_step

    def spy(self, batch, batch_idx):
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        seen.append((self.trainer.current_epoch, batch.image_ids.tolist(), rate))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DetectionModule, "training_step", spy)
    length = ("--model.schedule.length", "2", "--model.schedule.warmup", "0", "--model.schedule.milestones", "[1]")
    assert interrupted(signal.SIGTERM, 1, *length, "--run.folder", "out") == 143
    assert run("fit", *length, "--run.folder", "out", "--resume", "auto", *options) == 0
    for epoch in (0, 1):
        images = [image for at, ids, _ in seen if at == epoch for image in ids]
        assert len(images) == len(set(images)) == 8
    assert torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)["global_step"] == last
    batch = int(options[1]) if options[0] == "--data.batch_size" else 2
    assert seen[2][2] == pytest.approx(0.02 * batch / 16)
    assert seen[-1][2] == pytest.approx(0.002 * batch / 16)


@pytest.mark.slow
def test_accumulated_gradients_are_finished_first(interrupted, tmp_path):
    options = ("--trainer.accumulate_grad_batches", "2", "--data.batch_size", "4")
    assert interrupted(signal.SIGTERM, 1, *options, "--run.folder", "out") == 143
    assert torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_resume_auto_begins_where_there_is_nothing_yet(tmp_path):
    folder = str(tmp_path / "run")
    assert complete(["fit", "--resume", "auto", "--run.folder", folder]) == ["fit", "--run.folder", folder]
    assert complete(["fit", "--resume=auto", f"--run.folder={folder}"]) == ["fit", f"--run.folder={folder}"]
    with pytest.raises(InputError, match=r"set it with --run\.folder"):
        complete(["fit", "--resume", "auto"])


@pytest.mark.parametrize(
    ("number", "told", "requeued"),
    [
        (signal.SIGUSR1, "", True),
        (signal.SIGTERM, "PreemptEligibleTime=2026-11-24T02:03:45 PreemptTime=2026-11-24T02:03:49", True),
        (signal.SIGTERM, "PreemptEligibleTime=2026-11-24T02:03:45 PreemptTime=None", False),
        (signal.SIGTERM, "", False),
        (signal.SIGINT, "", False),
    ],
)
def test_a_job_is_requeued_when_it_is_warned_or_preempted(monkeypatch, number, told, requeued):
    calls = []

    def scontrol(command, **_):
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, told)

    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setattr(signals.shutil, "which", lambda name: name)
    monkeypatch.setattr(signals.subprocess, "run", scontrol)
    signals.requeue(number)
    assert (["scontrol", "requeue", "77"] in calls) == requeued


def begin_outliving(number: int) -> None:
    listener.ignore_signals()


@pytest.mark.parametrize("begin", [None, begin_outliving])
def test_a_worker_outlives_what_other_processes_send(begin):
    batches = iter(DataLoader(range(1000), num_workers=1, worker_init_fn=begin))
    worker = batches._workers[0]
    told = ""
    try:
        next(batches)
        for number in listener.SIGNALS if begin else [signal.SIGTERM]:
            subprocess.run(["kill", f"-{number:d}", str(worker.pid)], check=True)
            time.sleep(0.1)
            for _ in range(10):  # more than lie ready
                next(batches)
        worker.kill()
        for _ in range(100):
            time.sleep(0.05)
            next(batches)
    except (RuntimeError, ConnectionError, EOFError) as error:
        told = f"{type(error).__name__} {error}"
    finally:
        batches._shutdown_workers()  # else PyTorch tells of this worker in other tests
    # PyTorch says it in two ways, as it comes to know it, unless the worker dies while it hands over a tensor.
    assert str(worker.pid) in told or told.startswith(("Connection", "EOFError"))
    assert worker.exitcode == -(signal.SIGKILL if begin else signal.SIGTERM)


def hang(begun) -> None:
    listener.ignore_signals()
    begun.set()
    time.sleep(100)


def test_a_worker_that_hangs_does_not_outlive_its_training():
    begun = multiprocessing.Event()
    worker = multiprocessing.Process(target=hang, args=[begun], daemon=True)
    worker.start()
    assert begun.wait(30)
    signals._kill_what_hangs()
    worker.join(10)
    assert worker.exitcode == -signal.SIGKILL


KILLER = """
import os, signal
from lightning.pytorch import Callback

class Killer(Callback):
    def __init__(self, rank: int):
        self.rank = rank

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_rank == self.rank and trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_all(tiny_config, tmp_path, rank):
    (tmp_path / "killer.py").write_text(KILLER)
    command = [sys.executable, str(ROOT / "tools/train.py"), "fit", "--config", str(tiny_config)]
    command += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--run.folder", str(tmp_path / "out")]
    command += ["--model.schedule.length", "20", "--run.pictures", "0"]
    command += ["--trainer.callbacks", f'{{"class_path": "killer.Killer", "init_args": {{"rank": {rank}}}}}']
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path)
    assert done.returncode == 143, done.stderr[-2000:]
    assert torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)["global_step"] == signals.ASK_EVERY


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once():
    """Which is said, with the code of a shell, from the thread that listens."""
    script = (
        "import os, signal, time\n"
        "from detection.engine.signals import SaveAndStop\n"
        "listener = SaveAndStop(last=None)._listener\n"
        "listener.begin()\n"
        "for _ in range(2):\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(0.8)\n"
        "print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.splitlines() == [
        "SIGINT: saving after this step; press Ctrl-C again to quit without saving",
        "error: stopped by a second SIGINT; this step was not saved",
    ]


@pytest.fixture
def interrupted_evaluation(run, monkeypatch):
    """Send a signal in the second batch of an evaluation; gives the exit code and the batches that were evaluated."""

    def evaluate(command: str, *options: str) -> tuple[int, int]:
        seen, step = [], DetectionModule._evaluation_step

        def spy(self, batch, split):
            seen.append(split)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return step(self, batch, split)

        with monkeypatch.context() as patch:
            patch.setattr(DetectionModule, "_evaluation_step", spy)
            return run(command, *options), len(seen)

    return evaluate


@pytest.mark.slow
def test_a_signal_in_an_evaluation_of_a_training_ends_it_between_two_batches(
    interrupted_evaluation, run, tmp_path, capsys
):
    assert interrupted_evaluation("fit", "--run.folder", "out") == (130, 2)  # of 4
    told = capsys.readouterr().err
    assert "SIGINT: stopping after this batch of the evaluation; press Ctrl-C again" in told
    assert "error: stopped by SIGINT in the evaluation after step 4, which runs again when you continue with" in told
    assert torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert not (tmp_path / "out/checkpoints/best.ckpt").exists()
    length = ("--model.schedule.length", "2")
    assert run("fit", "--run.folder", "out", "--resume", "auto", *length) == 0
    assert run("fit", "--run.folder", "whole", *length) == 0
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "out/val.csv").read_text() == (tmp_path / "whole/val.csv").read_text()


@pytest.mark.parametrize("command", [pytest.param("validate", marks=pytest.mark.slow), "test"])
def test_a_signal_ends_an_evaluation_between_two_batches(interrupted_evaluation, trained, shapes, capsys, command):
    split = ("--data.test.images", "val", "--data.test.annotations", "annotations/instances_val.json")
    options = ("--ckpt_path", str(trained / "checkpoints/best.ckpt"), *(split if command == "test" else ()))
    assert interrupted_evaluation(command, *options) == (130, 2)
    lines = capsys.readouterr().err.splitlines()
    assert "SIGINT: stopping after this batch; press Ctrl-C again to quit at once" in lines
    assert "error: stopped by SIGINT after 2 of 4 batches; it wrote no results" in lines


def test_ranks_with_different_numbers_of_batches_ask_one_another_equally_often(monkeypatch):
    """The least of all ranks bounds the questions: 11 batches here, 10 on the other, 9 on a third."""
    asked = []

    def largest(number, device):
        asked.append(number)
        return max(number, -9) if number < 0 else number

    monkeypatch.setattr(signals, "_largest", largest)
    ask = signals.SignalAgreement()
    ask.begin(SimpleNamespace(world_size=3), torch.device("cpu"), [11])
    assert [ask(2, index) for index in range(11)] == [0] * 11  # batch 10 is not everybody's
    ask.begin(SimpleNamespace(world_size=1), torch.device("cpu"), [11])
    assert ask(2, 0) == 2

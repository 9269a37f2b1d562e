"""Killed ranks, and exhausted resources of the machine."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from detection.engine import ranks
from detection.engine.errors import lost_rank, user_message

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("codes", "found"),
    [
        ([None, None], None),
        ([0, None], None),
        ([None, -9], (2, -9)),
        ([1, -9, 1], (2, -9)),  # the others failed for want of it
        ([None, 2], (2, 2)),
        ([0, -11, -6], (2, -11)),
    ],
)
def test_the_rank_that_was_killed_is_named_and_not_those_that_followed(codes, found):
    assert ranks.first_ended(codes) == found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_children_are_watched_and_the_others_are_ended(monkeypatch, number):
    children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
    ended = []
    monkeypatch.setattr(ranks, "leave_at_once", lambda message, code: ended.append((message, code)))
    children[1].send_signal(number)
    ranks._wait_for(children)
    assert children[0].wait(10) == -signal.SIGKILL
    ((message, code),) = ended
    assert message.startswith(f"rank 2 is gone: it was killed by {number.name}")
    assert "\n" not in message
    assert code == 1


def test_a_rank_that_said_its_own_error_gives_the_code(monkeypatch):
    monkeypatch.setattr(ranks, "GRACE", 0.1)
    ended = []
    monkeypatch.setattr(ranks, "leave_at_once", lambda message, code: ended.append((message, code)))
    ranks._wait_for([subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])])
    assert ended == [("rank 1 ended with exit code 2; all ranks end", 2)]


def test_ranks_that_end_well_are_left_alone(monkeypatch):
    monkeypatch.setattr(ranks, "leave_at_once", lambda message, code: pytest.fail(message))
    ranks._wait_for([subprocess.Popen([sys.executable, "-c", ""])])


@pytest.mark.parametrize(
    "text",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.1.1]:5432",
        "Connection reset by peer",
        "process 1 terminated with signal SIGKILL",
        "Broken pipe",
    ],
)
def test_what_an_exchange_says_of_a_lost_rank_is_one_line(text):
    message, code = user_message(RuntimeError(text))
    assert lost_rank(RuntimeError(text))
    assert message.startswith("another rank is gone")
    assert (code, "\n" in message) == (1, False)


OUT = {
    "shared memory": [
        RuntimeError("unable to write to file </torch_93_1_0>: No space left on device (28)"),
        RuntimeError(
            "Caught RuntimeError in DataLoader worker process 0.\nunable to allocate shared memory(shm) for "
            "file </torch_1>: No space left on device (28)"
        ),
        RuntimeError(
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
            "workers are out of shared memory. Please try to raise your shared memory limit."
        ),
    ],
    "threads or processes": [
        RuntimeError("can't start new thread"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        RuntimeError("std::system_error: Resource temporarily unavailable"),
    ],
    "no memory left": [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
}


@pytest.mark.parametrize(("what", "error"), [(what, error) for what, errors in OUT.items() for error in errors])
def test_what_the_machine_ran_out_of_is_one_line_with_a_remedy(what, error):
    message, code = user_message(error)
    assert what in message
    assert (code, "\n" in message) == (1, False)
    assert "try" in message or "use" in message


def test_an_error_that_lightning_hides_behind_its_own_is_told():
    hidden = RuntimeError("Please call `iter(combined_loader)` first.")
    hidden.__context__ = RuntimeError("can't start new thread")
    assert "threads or processes" in user_message(hidden)[0]
    hidden.__context__ = None
    assert user_message(hidden)[1] is None


def test_a_disk_that_is_full_is_no_shared_memory():
    assert user_message(OSError(errno.ENOSPC, "No space left on device", "runs/a/last.ckpt"))[1] is None


@pytest.mark.slow
def test_a_child_notices_that_the_first_rank_is_gone():
    """Of a grandchild that is left alone by its parent."""
    script = (
        "import os, subprocess, sys, time\n"
        "child = 'import time; from detection.engine.ranks import watch_ranks; watch_ranks(); print(1, flush=True);"
        " time.sleep(60)'\n"
        "command, environment = [sys.executable, '-c', child], {**os.environ, 'LOCAL_RANK': '1'}\n"
        "p = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=100)
    assert done.returncode == -9
    assert done.stderr == ("error: rank 0 is gone: it was killed or crashed; all ranks end. Continue with --resume\n")


KILLER = """
import os
from lightning.pytorch import Callback

class Killer(Callback):
    def __init__(self, rank: int, number: int):
        self.rank, self.number = rank, number

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_rank == self.rank and trainer.global_step == 2:
            os.kill(os.getpid(), self.number)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_killed_rank_ends_all_with_one_line(tiny_config, tmp_path, rank, number):
    (tmp_path / "killer.py").write_text(KILLER)
    command = [sys.executable, str(ROOT / "tools/train.py"), "fit", "--config", str(tiny_config)]
    command += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--run.folder", str(tmp_path / "out")]
    command += ["--model.schedule.length", "20", "--run.pictures", "0"]
    arguments = f'{{"rank": {rank}, "number": {number:d}}}'
    command += ["--trainer.callbacks", f'{{"class_path": "killer.Killer", "init_args": {arguments}}}']
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, cwd=tmp_path)
    assert done.returncode == (1 if rank else -number)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith(f"error: rank {rank} is gone: it was killed")

"""A run that is told to stop saves itself first: SIGTERM, SIGINT (Ctrl-C) and SIGUSR1, on any rank.

Lightning alone saves nothing at SIGTERM and exits with 0, so that a preempted job looks finished; a signal to one rank
leaves the others waiting. Here a handler only remembers the signal. Between two steps the ranks agree on it, all save,
and all leave with the shell's code for the signal.
"""

import atexit
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from detection.engine.callbacks import LastCheckpoint
from detection.engine.errors import StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) if os.name == "posix" else (signal.SIGTERM, signal.SIGINT)
ASK_EVERY = 10
"""Steps between two questions to the other ranks: each waits for the device."""


class SaveAndStop(Callback):
    """Saves ``last.ckpt`` and ends the run at the first step after a signal.

    On one process the step that is running is the last; on several, one of the next ``ASK_EVERY``. A second Ctrl-C ends
    the process at once, without saving. Under SLURM, a job that is warned (SIGUSR1) or preempted also goes back into
    the queue.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self._last, self._received = last, 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        # Between two steps only, as accumulated gradients are not saved.
        if (index + 1) % trainer.accumulate_grad_batches:
            return
        number = self._received
        if trainer.world_size > 1:
            if trainer.global_step % ASK_EVERY:
                return
            number = _largest(number, module.device)
        if number:
            path = self._last.save(trainer)
            if isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO):
                trainer.strategy.checkpoint_io.teardown()  # waits until it is written
                trainer.strategy.barrier()
            # Being requeued, SLURM sends another signal, which must not meet Lightning's handler: it would wait for
            # ranks that are gone.
            for each in self._before:
                signal.signal(each, signal.SIG_IGN)
            if trainer.is_global_zero:
                requeue(number)
            raise StoppedError(number, trainer.global_step, path)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, StoppedError):  # then Lightning restores what was there before the run
            self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def outlive_signals() -> None:
    """For a loader's worker: deliver until the training ends it, whatever signals come.

    SLURM, systemd, ``timeout`` and terminals signal all processes of a run. PyTorch lets a worker die of a SIGTERM that
    is not from its training, which then fails for want of the worker instead of saving itself.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@atexit.register  # before Python's own end, which sends SIGTERM and waits
def _kill_what_hangs() -> None:
    """End the workers that are left: one that hangs would outlive the SIGTERM."""
    left = [child for child in multiprocessing.active_children() if child.daemon]
    for child in left:
        child.terminate()
    for child in left:
        with suppress(RuntimeError):  # of PyTorch, that a worker was killed
            child.join(1)
            child.kill()


def requeue(number: int) -> None:
    """Put a SLURM job back into the queue that was warned by SIGUSR1, or by SIGTERM as it is preempted.

    SLURM itself requeues a preempted job only where it has to kill it: one that saves itself and leaves within the
    grace time counts as failed. A job that a user cancels gets the same SIGTERM, and stays cancelled.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job or os.name != "posix" or not shutil.which("scontrol"):
        return
    if number == signal.SIGUSR1 or (number == signal.SIGTERM and _is_preempted(job)):
        subprocess.run(["scontrol", "requeue", job], check=False)


def _is_preempted(job: str) -> bool:
    told = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False).stdout
    when = re.search(r"\bPreemptTime=(\S+)", told)
    return when is not None and when[1] not in ("None", "N/A")


def _largest(number: int, device: torch.device) -> int:
    """Over all ranks; every rank must ask."""
    flag = torch.tensor(number, device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return int(flag)

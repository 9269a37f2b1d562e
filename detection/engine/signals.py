"""A run that is told to stop saves itself first: SIGTERM, SIGINT (Ctrl-C) and SIGUSR1, on any rank.

Lightning alone saves nothing at SIGTERM and exits with 0, so that a preempted job looks finished; a signal to one rank
leaves the others waiting. Here a handler only remembers the signal. Between two steps the ranks agree on it, all save,
and all leave with the shell's code for the signal.
"""

import os
import shutil
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from detection.engine.callbacks import LastCheckpoint
from detection.engine.errors import StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) if os.name == "posix" else (signal.SIGTERM, signal.SIGINT)
ASK_EVERY = 10
"""Steps between two questions to the other ranks: each waits for the device."""


class SaveAndStop(Callback):
    """Saves ``last.ckpt`` and ends the run at the first step after a signal.

    On one process the step that is running is the last; on several, one of the next ``ASK_EVERY``. A second Ctrl-C ends
    the process at once, without saving. Under SLURM, SIGUSR1 also puts the job back into the queue.
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
            if trainer.is_global_zero:
                requeue(number)
            raise StoppedError(number, trainer.global_step, path)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def requeue(number: int) -> None:
    """Put a SLURM job that was warned by SIGUSR1 back into the queue."""
    job = os.environ.get("SLURM_JOB_ID")
    if job and os.name == "posix" and number == signal.SIGUSR1 and shutil.which("scontrol"):
        subprocess.run(["scontrol", "requeue", job], check=False)


def _largest(number: int, device: torch.device) -> int:
    """Over all ranks; every rank must ask."""
    flag = torch.tensor(number, device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return int(flag)

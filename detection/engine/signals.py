"""A run that gets a signal to stop saves itself first: SIGTERM, SIGINT (Ctrl-C) and SIGUSR1, on any rank.

Lightning alone saves nothing at SIGTERM and exits with 0, so that a preempted job looks finished; a signal to one rank
leaves the others waiting. Here a handler only remembers the signal. The ranks agree on it between two steps, or between
two batches of an evaluation. Then all save, and all leave with the shell's code for the signal.
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
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from detection.engine.errors import StoppedError
from detection.engine.last_checkpoint import LastCheckpoint
from detection.engine.lightning_mends.processes import keep_signal_handlers_away
from detection.engine.lightning_mends.step_log import log_step
from detection.engine.listener import Listener, leave_at_once
from detection.engine.startup import raise_if_signalled
from detection.wording import plural

ASK_EVERY = 10
"""Steps or batches between two questions to the other ranks: each waits for the device."""


class SaveAndStop(Callback):
    """Saves ``last.ckpt`` and ends the run at the first step after a signal.

    On one process the step that is running is the last; on several, one of the next ``ASK_EVERY``. An evaluation ends
    between two batches: ``last.ckpt`` was saved before it began, and the resumed run makes it up. A second Ctrl-C ends
    the process at once, without saving. Under SLURM, a job that is warned (SIGUSR1) or preempted also goes back into
    the queue.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self._trainer: Trainer | None = None
        self._last, self._ask = last, SignalAgreement()
        self._listener = Listener(self._announcement, self._quit)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        keep_signal_handlers_away(trainer)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        raise_if_signalled()
        self._listener.begin()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        # Between two steps only, as accumulated gradients are not saved.
        if (index + 1) % trainer.accumulate_grad_batches:
            return
        number = self._listener.received
        if trainer.world_size > 1:
            if trainer.global_step % ASK_EVERY:
                return
            number = _largest(number, module.device)
        if number:
            path = self._last.save(trainer)
            if isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO):
                trainer.strategy.checkpoint_io.teardown()  # waits until it is written
                trainer.strategy.barrier()
            log_step(trainer)
            self._stop(trainer, number, f"after step {trainer.global_step}; continue with --resume {path}")

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._ask.begin(trainer, module.device, trainer.num_val_batches)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:  # one that is made up comes before the first step
            raise_if_signalled()
            self._listener.begin()

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if number := self._ask(self._listener.received, index):
            path = self._last.path(trainer)
            place = f"in the evaluation after step {trainer.global_step}, which runs again when you continue"
            self._stop(trainer, number, f"{place} with --resume {path}")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._listener.end()

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._listener.end()  # of a run that had only its last evaluation to make up

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._listener.end(leaving=isinstance(exception, StoppedError))

    def _stop(self, trainer: Trainer, number: int, where: str) -> None:
        # Being requeued, SLURM sends another signal, which must not stop what saves the run.
        self._listener.end(leaving=True)
        if trainer.is_global_zero:
            requeue(number)
        raise StoppedError(number, where)

    def _announcement(self) -> str:
        again = "press Ctrl-C again to quit without saving"
        if self._trainer is not None and self._trainer.validating:
            return f"stopping after this batch of the evaluation; {again}"
        return f"saving after this step; {again}"

    def _quit(self) -> None:
        _kill_ranks(self._trainer)
        leave_at_once("stopped by a second SIGINT; this step was not saved", 128 + signal.SIGINT)


class StopEvaluation(Callback):
    """Ends ``rcnn validate``, ``test`` or ``predict`` between two batches after a signal."""

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._listener, self._ask = Listener(self._announcement, self._quit), SignalAgreement()

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        keep_signal_handlers_away(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._begin(trainer, module, trainer.num_val_batches)

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._begin(trainer, module, trainer.num_test_batches)

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._begin(trainer, module, trainer.num_predict_batches)

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, o: Any, b: Any, index: int, *_: Any
    ) -> None:
        self._look(index, trainer.num_val_batches)

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, o: Any, b: Any, index: int, *_: Any) -> None:
        self._look(index, trainer.num_test_batches)

    def on_predict_batch_end(
        self, trainer: Trainer, module: LightningModule, o: Any, b: Any, index: int, *_: Any
    ) -> None:
        self._look(index, trainer.num_predict_batches)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._listener.end()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._listener.end(leaving=isinstance(exception, StoppedError))

    def _begin(self, trainer: Trainer, module: LightningModule, batches: Any) -> None:
        if trainer.state.fn != "fit":  # one that saves nothing ends at once
            raise_if_signalled()
            self._ask.begin(trainer, module.device, batches)
            self._listener.begin()

    def _look(self, index: int, batches: Any) -> None:
        if number := self._ask(self._listener.received, index):
            raise StoppedError(number, f"after {index + 1} of {plural(_sum(batches), 'batch')}; it wrote no results")

    def _announcement(self) -> str:
        return "stopping after this batch; press Ctrl-C again to quit at once"

    def _quit(self) -> None:
        _kill_ranks(self._trainer)
        leave_at_once("stopped by a second SIGINT; no results were written", 128 + signal.SIGINT)


class SignalAgreement:
    """Lets all ranks agree on a signal between two batches of an evaluation; ranks may differ by a batch."""

    def __init__(self) -> None:
        self._several, self._least, self._device = False, 0, torch.device("cpu")

    def begin(self, trainer: Trainer, device: torch.device, batches: Any) -> None:
        """Every rank must call it."""
        self._several, self._device = trainer.world_size > 1, device
        if self._several:
            self._least = -_largest(-_sum(batches), device)

    def __call__(self, number: int, index: int) -> int:
        """The largest signal of all ranks; 0 if none came, or if the ranks do not ask each other at this batch."""
        if not self._several:
            return number
        due = (index + 1) % ASK_EVERY == 0 and index < self._least
        return _largest(number, self._device) if due else 0


def _kill_ranks(trainer: Trainer | None) -> None:
    """End the processes that this one started as ranks."""
    launcher: Any = None if trainer is None else trainer.strategy.launcher
    if launcher is not None and hasattr(launcher, "kill"):
        launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has the second alone


def _sum(batches: Any) -> int:
    """Lightning has a number for each loader; this toolkit has one loader."""
    return int(sum(batches)) if isinstance(batches, list) else int(batches)


@atexit.register  # before Python's own end, which sends SIGTERM and waits
def _kill_what_hangs() -> None:
    """End the workers that are left: one that hangs would survive the SIGTERM."""
    left = [child for child in multiprocessing.active_children() if child.daemon]
    if left and threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raises for each worker that is killed
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
    if number == getattr(signal, "SIGUSR1", None) or (number == signal.SIGTERM and _is_preempted(job)):
        subprocess.run(["scontrol", "requeue", job], check=False)


def _is_preempted(job: str) -> bool:
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False).stdout
    when = re.search(r"\bPreemptTime=(\S+)", shown)
    return when is not None and when[1] not in ("None", "N/A")


def _largest(number: int, device: torch.device) -> int:
    """The largest number of all ranks; every rank must ask."""
    flag = torch.tensor(number, device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return int(flag)

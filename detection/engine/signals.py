"""Save a checkpoint and stop a run after a signal to any rank: SIGTERM, SIGINT (Ctrl-C) or SIGUSR1.

At SIGTERM, Lightning alone saves nothing and exits with 0, so that a preempted job looks finished. After a signal to
one rank, the other ranks would wait forever. Here a handler only stores the signal. The ranks agree on it between two
steps, or between two batches of an evaluation. Then all ranks save and exit with the shell's code for the signal.
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
"""Steps or batches between two exchanges of signals among ranks, each of which synchronises with the device."""


class SaveAndStop(Callback):
    """Save ``last.ckpt`` and end the run after the first complete step that follows a signal.

    With one process, the current step is the last one; with several, it is one of the next ``ASK_EVERY``. An evaluation
    ends between two batches: ``last.ckpt`` was saved before it, and the resumed run repeats the evaluation. A second
    Ctrl-C ends the process at once, without saving. Under SLURM, a job that was warned (SIGUSR1) or preempted also
    returns to the queue.
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
        # Only between two steps, since a checkpoint has no accumulated gradients.
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
                trainer.strategy.checkpoint_io.teardown()  # waits until the checkpoint is written
                trainer.strategy.barrier()
            log_step(trainer)
            self._stop(trainer, number, f"after step {trainer.global_step}; continue with --resume {path}")

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._ask.begin(trainer, module.device, trainer.num_val_batches)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:  # a repeated one runs before the first step
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
        self._listener.end()  # for a run that only repeated its last evaluation

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._listener.end(leaving=isinstance(exception, StoppedError))

    def _stop(self, trainer: Trainer, number: int, where: str) -> None:
        # SLURM sends another signal when it requeues the job, which must not interrupt saving.
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
    """End ``rcnn validate``, ``test`` or ``predict`` between two batches after a signal."""

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
        if trainer.state.fn != "fit":  # a training without checkpoints ends immediately at a signal
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
    """Let all ranks agree on a signal between two batches of an evaluation; ranks may have one batch more or less."""

    def __init__(self) -> None:
        self._several, self._least, self._device = False, 0, torch.device("cpu")

    def begin(self, trainer: Trainer, device: torch.device, batches: Any) -> None:
        """Prepare for an evaluation; all ranks must call this method.

        Args:
            trainer: trainer of the run.
            device: device for the exchange.
            batches: Lightning's number of batches of this rank.
        """
        self._several, self._device = trainer.world_size > 1, device
        if self._several:
            self._least = -_largest(-_sum(batches), device)

    def __call__(self, number: int, index: int) -> int:
        """Return the largest signal number of all ranks; 0 if none came, or at batches without an exchange.

        Args:
            number: signal number of this rank, or 0.
            index: index of the batch.
        """
        if not self._several:
            return number
        due = (index + 1) % ASK_EVERY == 0 and index < self._least
        return _largest(number, self._device) if due else 0


def _kill_ranks(trainer: Trainer | None) -> None:
    """Kill the ranks that this process started."""
    launcher: Any = None if trainer is None else trainer.strategy.launcher
    if launcher is not None and hasattr(launcher, "kill"):
        launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has only SIGTERM


def _sum(batches: Any) -> int:
    """Return the number of batches of the single loader, from Lightning's number or its list with one per loader."""
    return int(sum(batches)) if isinstance(batches, list) else int(batches)


@atexit.register  # before Python's shutdown, which sends SIGTERM to the workers and waits for them
def _kill_what_hangs() -> None:
    """Kill the remaining workers of this process: a hanging one would survive SIGTERM."""
    left = [child for child in multiprocessing.active_children() if child.daemon]
    if left and threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raises an error for each killed worker
    for child in left:
        child.terminate()
    for child in left:
        with suppress(RuntimeError):  # PyTorch's error about a killed worker
            child.join(1)
            child.kill()


def requeue(number: int) -> None:
    """Requeue the SLURM job of this process after SIGUSR1, or after a SIGTERM because of preemption.

    SLURM itself requeues a preempted job only if it has to kill it. A job that saves and exits within the grace time
    counts as failed. The function does not requeue a job that a user cancelled, which also gets SIGTERM.

    Args:
        number: number of the signal.
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
    """Return the largest number of all ranks; all ranks must call this function."""
    flag = torch.tensor(number, device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return int(flag)

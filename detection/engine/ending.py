"""The end of one of several processes after an error of its own."""

import os
import signal
import sys
import time
import traceback

import torch.distributed as dist
from lightning.pytorch import Trainer

from detection.engine.errors import StoppedError, lost_rank, user_message
from detection.foreign import printable

VERDICT = 3.0
"""Seconds in which :mod:`.ranks` finds the rank that is gone, and ends this one."""


def end_at_once(trainer: Trainer, error: Exception) -> None:
    """With NCCL and several processes, print the error and end this process without Python's usual end.

    The usual end waits for the other ranks, which wait for this one in the step that it did not finish. The launcher of
    the ranks (Lightning, torchrun, Slurm) ends the others once one is gone. With gloo, the usual end waits for a rank
    that is gone, too.
    """
    agreed = isinstance(error, StoppedError)  # all ranks stop
    if agreed or trainer.world_size == 1 or not dist.is_available() or not dist.is_initialized():
        return
    lost = lost_rank(error)
    if not lost and "nccl" not in dist.get_backend():
        return
    if lost:
        time.sleep(VERDICT)
    message, code = user_message(error)
    if code is None:
        traceback.print_exception(error)
    else:
        print(f"error: {printable(message)}", file=sys.stderr)
    launcher = trainer.strategy.launcher
    if launcher is not None:
        # What this one has started; our handlers would wait for the end of a step. Windows has no SIGKILL.
        launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if code is None else code)

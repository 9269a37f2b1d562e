"""End one of several processes after an error in it."""

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
"""Seconds within which :mod:`.ranks` finds the lost rank and ends this process."""


def end_at_once(trainer: Trainer, error: Exception) -> None:
    """Print the error and end this process without Python's shutdown, if the shutdown would wait for other ranks.

    With NCCL and several processes, the shutdown waits for the other ranks, which wait for this rank in its unfinished
    step. With gloo, it waits only if another rank is lost. Return if the shutdown would not wait. The launcher of the
    ranks (Lightning, torchrun, Slurm) ends the other ranks after one has ended.
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
        # Processes of this one. They handle other signals only at the end of a step. Windows has no SIGKILL.
        launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if code is None else code)

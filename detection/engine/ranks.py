"""Several processes of one run on a machine: when one is killed, the others end with one line that says which.

By itself, Lightning silently ends all ranks, and a rank that exchanges data writes pages of its library's traceback.
Other launchers (torchrun, Slurm) say themselves which rank is gone.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from detection.engine.lightning_mends.processes import observe_children_by
from detection.engine.listener import leave_at_once

EVERY = 0.2
"""Seconds between two looks."""
GRACE = 10.0
"""Seconds in which a process may end by itself after one of its ranks has printed an error."""


def watch_ranks() -> None:
    """Watch the ranks that Lightning will start from here, or the process that started this one."""
    observe_children_by(_watch_children)
    if os.environ.get("LOCAL_RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" not in os.environ and os.name == "posix":
        threading.Thread(target=_watch_parent, args=[os.getppid()], name="first-rank", daemon=True).start()


def first_ended(codes: Sequence[int | None]) -> tuple[int, int] | None:
    """The rank that ended first, and its exit code: one that a signal killed (below 0) before one with an error.

    Args:
        codes: of ranks 1, 2, ...; None of those that run.
    """
    ended = [(code, rank) for rank, code in enumerate(codes, 1) if code]
    if not ended:
        return None
    code, rank = min(ended, key=lambda one: (one[0] > 0, one[1]))
    return rank, code


def reason(rank: int, code: int) -> str:
    """The message for a rank that was killed: ``rank 1 is gone: it was killed by SIGKILL``, with the usual cause."""
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    why = ", as the system does where memory runs out" if name == "SIGKILL" else ""
    return f"rank {rank} is gone: it was killed by {name}{why}; all ranks end. Continue with --resume"


def _watch_children(child_processes: list[subprocess.Popen[Any]]) -> None:
    threading.Thread(target=_wait_for, args=[child_processes], name="ranks", daemon=True).start()


def _wait_for(children: list[subprocess.Popen[Any]]) -> None:
    while (found := first_ended([child.poll() for child in children])) is None:
        time.sleep(EVERY)
        if all(child.returncode == 0 for child in children):
            return
    time.sleep(EVERY)  # a rank that failed because another was killed may be noticed before that one
    rank, code = first_ended([child.poll() for child in children]) or found
    if code > 0:  # it has printed its error, and this process may be about to
        time.sleep(GRACE)
    for child in children:
        if child.poll() is None:
            child.kill()
    message = reason(rank, code) if code < 0 else f"rank {rank} ended with exit code {code}; all ranks end"
    leave_at_once(message, 1 if code < 0 else code)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    if os.environ.get("LOCAL_RANK") == "1":
        os.environ["LOCAL_RANK"] = "0"  # it speaks for all that are left
    leave_at_once("rank 0 is gone: it was killed or crashed; all ranks end. Continue with --resume", 1)

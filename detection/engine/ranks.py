"""Watch the ranks of a run on one machine: when one is killed, end the others with a line that names it.

Lightning alone silently kills all ranks, and a rank that communicates prints a long traceback of its library. Other
launchers (torchrun, Slurm) report the lost rank themselves.
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
"""Seconds between two checks."""
GRACE = 10.0
"""Seconds in which this process may end by itself after another rank has failed with an error."""


def watch_ranks() -> None:
    """Watch the ranks that Lightning starts from this process, and on other ranks the process that started them."""
    observe_children_by(_watch_children)
    if os.environ.get("LOCAL_RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" not in os.environ and os.name == "posix":
        threading.Thread(target=_watch_parent, args=[os.getppid()], name="first-rank", daemon=True).start()


def first_ended(codes: Sequence[int | None]) -> tuple[int, int] | None:
    """Return the rank that caused the end of the run, and its exit code; None if no rank has failed.

    A rank that a signal killed (exit code below 0) has priority over one with an error, then the lowest rank.

    Args:
        codes: exit codes of ranks 1, 2, ...; None for running ranks.
    """
    ended = [(code, rank) for rank, code in enumerate(codes, 1) if code]
    if not ended:
        return None
    code, rank = min(ended, key=lambda one: (one[0] > 0, one[1]))
    return rank, code


def reason(rank: int, code: int) -> str:
    """Return a message such as ``rank 1 is gone: it was killed by SIGKILL``, with the usual cause.

    Args:
        code: exit code of the rank: minus the number of the signal.
    """
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
    time.sleep(EVERY)  # the first poll may find a rank that failed because of a killed one, but not yet the killed one
    rank, code = first_ended([child.poll() for child in children]) or found
    if code > 0:  # the rank has printed its error, and this process may be about to do so
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
        os.environ["LOCAL_RANK"] = "0"  # this rank prints the message for all remaining ranks
    leave_at_once("rank 0 is gone: it was killed or crashed; all ranks end. Continue with --resume", 1)

"""Exchange what several processes have collected."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def states_of_ranks(state: Callable[[], T]) -> list[T] | None:
    """Return the states of all ranks, the same list on each rank; None in a single process.

    Args:
        state: makes the state of this rank, which must be picklable; not called in a single process.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return None
    states: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state())
    return states  # type: ignore[return-value]

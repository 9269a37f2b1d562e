"""Where a tool computes."""

import torch

from detection.memory import keep_freed_memory


def best_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def inference_device(asked: str | None) -> torch.device:
    """The device that a user asked for, or the best; a processor's memory is made ready, so call it early.

    Raises:
        ValueError: there is no such device.
    """
    try:
        device = torch.device(asked) if asked else best_device()
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {asked}: {str(error).splitlines()[0]}; take cpu, or leave it out") from error
    if device.type == "cpu":
        keep_freed_memory()
    return device

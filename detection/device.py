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
    wanted = asked or best_device().type
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {wanted}: {str(error).splitlines()[0]}; take cpu, or leave it out") from error
    if device.type == "cpu":
        keep_freed_memory()
    return device

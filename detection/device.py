"""Select the device on which a tool computes, and name the hardware."""

import platform
from pathlib import Path

import torch

from detection.memory import keep_freed_memory


def best_device() -> torch.device:
    """Return the GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def accelerator_name() -> str | None:
    """Return the name of the GPU; None if there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def processor_name() -> str:
    """Return the name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")  # exists on Linux only
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor() or platform.machine()


def find_device(asked: str | torch.device, option: str = "device") -> torch.device:
    """Return a device by its name: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` is the GPU if there is one.

    Args:
        asked: the name, or a device.
        option: the name of the option, for the error message.

    Raises:
        ValueError: there is no such device.
    """
    try:
        device = best_device() if asked == "auto" else torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{option} {asked}: {str(error).splitlines()[0]}; use cpu, or leave it out") from error
    return device


def inference_device(asked: str | None) -> torch.device:
    """Return the device that the user named, or the best one. Prepare the CPU's memory; so call this function early.

    Raises:
        ValueError: there is no such device.
    """
    device = find_device(asked or "auto", "--device")
    if device.type == "cpu":
        keep_freed_memory()
    return device

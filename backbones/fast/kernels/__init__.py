"""GPU kernels in Triton for steps that PyTorch has no single operation for. PyTorch for CUDA includes Triton.

Each kernel replaces plain PyTorch code that stands beside its call. No kernel synchronises with the CPU.
"""

import warnings
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

from backbones.fast import switch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def usable(x: Tensor) -> bool:
    """Return whether Triton kernels can process a tensor of floating-point numbers."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cuda"
        and x.dtype in FLOATS
        and type(x) in (Tensor, Parameter)  # not a subclass, which may hold no data
        and not switch.is_off("triton")
        and _compiles(x.device)
    )


P = ParamSpec("P")
R = TypeVar("R")


def launches(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function on the device of its first argument; Triton alone would launch kernels on the current device."""

    @wraps(function)
    def on_its_device(*arguments: P.args, **options: P.kwargs) -> R:
        with torch.cuda.device_of(arguments[0]):
            return function(*arguments, **options)

    return on_its_device


@cache
def _compiles(device: torch.device) -> bool:
    """Return whether Triton can compile a kernel; it needs a C compiler, which slim containers lack.

    The toolkit uses Triton only on NVIDIA GPUs from Ampere on. Older GPUs and AMD GPUs are untested.
    """
    if find_spec("triton") is None or not torch.cuda.is_available() or torch.version.hip is not None:
        return False
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from backbones.fast.kernels import epilogue

        epilogue.finish(torch.zeros(1, 1, 1, 1, device=device), torch.zeros(1, device=device))
    except Exception as error:  # from Triton, the compiler or the driver
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"Triton could not compile GPU kernels ({reason}); using slower PyTorch code instead. To fix this, install "
            "a C compiler (Debian, Ubuntu: apt install gcc). To silence this warning, set RCNN_FAST=no-triton",
            stacklevel=2,
        )
        return False
    return True

"""What PyTorch has no single operation for, written for GPUs in Triton, which comes with PyTorch there.

Each is a faster way of something that stands next to where it is called. Nothing here waits for the host.
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
    """Whether kernels can be made for a tensor of floating point numbers."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cuda"
        and x.dtype in FLOATS
        and type(x) in (Tensor, Parameter)  # no stand-in for one, which has no numbers
        and not switch.is_off("triton")
        and _compiles(x.device)
    )


P = ParamSpec("P")
R = TypeVar("R")


def launches(function: Callable[P, R]) -> Callable[P, R]:
    """For what launches kernels: on the device of its first argument, where Triton takes the current one."""

    @wraps(function)
    def there(*arguments: P.args, **options: P.kwargs) -> R:
        with torch.cuda.device_of(arguments[0]):
            return function(*arguments, **options)

    return there


@cache
def _compiles(device: torch.device) -> bool:
    """Triton needs a C compiler on the machine, which slim containers lack.

    Only NVIDIA's GPUs from Ampere on are asked; older ones and AMD's were never at hand.
    """
    if find_spec("triton") is None or not torch.cuda.is_available() or torch.version.hip is not None:
        return False
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from backbones.fast.kernels import epilogue

        epilogue.finish(torch.zeros(1, 1, 1, 1, device=device), torch.zeros(1, device=device))
    except Exception as error:  # of Triton, of the compiler, of the driver
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"Triton cannot make kernels here ({told}); slower ways are taken. It needs a C compiler, as in Debian's "
            "package gcc. RCNN_FAST=no-triton in the environment asks for no kernels",
            stacklevel=2,
        )
        return False
    return True

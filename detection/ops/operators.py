"""PyTorch operators made of Python functions: compilers and exporters see one node, and devices may have own kernels.

``torch.library.custom_op`` would import the compiler at the first call, which takes longer than importing PyTorch. The
same is true of torchvision, of which :data:`greedy_nms` needs one function.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])

_LIBRARY = torch.library.Library("rcnn", "FRAGMENT")


def operator(function: F) -> F:
    """Make an operator ``rcnn::NAME`` of a function, without gradients; its attribute ``plain`` is the function.

    Args:
        function: its types make the schema; see ``torch.library.infer_schema``. It changes no argument.
    """
    name = function.__name__
    schema = torch.library.infer_schema(function, mutates_args=())
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    made = getattr(torch.ops.rcnn, name).default
    made.plain, made.__doc__ = function, function.__doc__
    return cast(F, made)


def shape_of(made: Callable[..., Any]) -> Callable[[F], F]:
    """Register the decorated function as the one that gives an operator's outputs in shape and type alone."""
    return torch.library.register_fake(str(made).removesuffix(".default").replace(".", "::"), lib=_LIBRARY)


def register_kernel(made: F, device: str, kernel: F) -> None:
    """Let an operator call another function on a device type, such as ``cpu``."""
    _LIBRARY.impl(str(made).split(".")[1], kernel, device.upper())


def _greedy_nms() -> Callable[[Tensor, Tensor, float], Tensor]:
    """Load torchvision's library of operators alone."""
    spec = find_spec("torchvision")
    try:
        for place in (spec and spec.submodule_search_locations) or ():
            for library in Path(place).glob("_C*"):
                torch.ops.load_library(str(library))
        return torch.ops.torchvision.nms.default  # type: ignore[no-any-return]
    except (AttributeError, OSError):  # a torchvision with another layout
        import torchvision

        return torchvision.ops.nms  # type: ignore[no-any-return]


greedy_nms = _greedy_nms()
"""torchvision's compiled NMS, of (N, 4) boxes, (N,) scores and a threshold; it returns indices by falling score."""

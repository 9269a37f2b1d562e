"""Make PyTorch operators from Python functions: compilers and exporters see one node, and a device can have a kernel.

``torch.library.custom_op`` would import PyTorch's compiler at the first call, which is slower than importing PyTorch.
The import of torchvision is as slow, so :data:`greedy_nms` loads only its library of operators.
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
    """Make an operator ``rcnn::NAME`` without gradients from a function; its attribute ``plain`` is the function.

    Args:
        function: a function that changes no argument. Its type hints define the schema, as in
            ``torch.library.infer_schema``.
    """
    name = function.__name__
    schema = torch.library.infer_schema(function, mutates_args=())
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    made = getattr(torch.ops.rcnn, name).default
    made.plain, made.__doc__ = function, function.__doc__
    return cast(F, made)


def shape_of(made: Callable[..., Any]) -> Callable[[F], F]:
    """Register the decorated function, which returns outputs of the right shapes and dtypes, for an operator."""
    return torch.library.register_fake(str(made).removesuffix(".default").replace(".", "::"), lib=_LIBRARY)


def register_kernel(made: F, device: str, kernel: F) -> None:
    """Register a faster function of an operator for a device type, such as ``cpu``."""
    _LIBRARY.impl(str(made).split(".")[1], kernel, device.upper())


def _greedy_nms() -> Callable[[Tensor, Tensor, float], Tensor]:
    """Load torchvision's library of operators, without importing torchvision."""
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
"""torchvision's compiled NMS for boxes (N, 4), scores (N,) and a threshold; returns indices by falling score."""

"""A fake device on every machine: the CPU holds its tensors, but they report another device.

The network then takes the ways that it takes on a GPU, with real numbers, and shows where the host would wait for it.
"""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from detection.fast import levels

ROOT = Path(__file__).parents[2]


class _Held(Tensor):
    """A tensor of the pretended device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "_Held":
        # Of all devices but the processor, PyTorch computes gradients for this one alone on every machine.
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        tensor = Tensor._make_wrapper_subclass(cls, held.shape, device="meta", **layout)
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: the pretended device is there inside its context only")


class _Numbers(TorchFunctionMode):
    """The two functions for which PyTorch looks at a tensor's memory itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and (device := kwargs.pop("device", None)) is not None:
            return func(*args, **kwargs).to(device)
        if func is Tensor.tolist and isinstance(args[0], _Held):
            return args[0].cpu().tolist()
        return func(*args, **kwargs)


def carried(tree: Any, carry: Callable[[Tensor], Tensor]) -> Any:
    """Tensors by ``carry``; those of a module in place."""
    if not isinstance(tree, nn.Module):
        return tree_map(lambda x: carry(x.detach()) if isinstance(x, Tensor) else x, tree)
    for module in tree.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(carry(value.detach()), value.requires_grad)
        module._buffers.update(carried(module._buffers, carry))
    return tree


class PretendedDevice(TorchDispatchMode):
    """Computes with tensors of another device while it is open.

    Attributes:
        waits: the lines of ours at which the host had to know numbers of the device, one for each time.
        launches: the lines of ours that started something there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.launches: list[str] = []
        self._numbers = _Numbers()

    def __enter__(self) -> "PretendedDevice":
        levels._cached_table.cache_clear()  # of this device nothing is kept yet
        self._numbers.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._numbers.__exit__(*error)
        levels._cached_table.cache_clear()

    def put(self, tree: Any) -> Any:
        """Tensors, and modules in place, copied to the device."""
        return carried(tree, lambda x: _Held(x.clone()))

    @staticmethod
    def get(tree: Any) -> Any:
        """What is held, without gradients."""
        return tree_map(lambda x: x.detach().held if isinstance(x, _Held) else x, tree)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [isinstance(x, _Held) for x in tensors]
        copies = func._schema.name in ("aten::_to_copy", "aten::copy_")
        if any(there) and not copies and any(x.dim() and not held for x, held in zip(tensors, there, strict=True)):
            raise RuntimeError(f"{func} of tensors on two devices at {_line()}")
        stays = any(there)
        if kwargs.get("device") is not None:
            stays = torch.device(kwargs["device"]).type == "meta"
            kwargs["device"] = torch.device("cpu")
        # A copy to the device goes on beside the host where that was asked for.
        crosses = copies and len({*there, stays}) > 1 and not (stays and kwargs.get("non_blocking"))
        if crosses or (any(there) and _asks(func, args, kwargs)):
            self.waits.append(_line())
        if any(there) and not func.is_view:
            self.launches.append(_line())
        on_cpu, options = tree_map(lambda x: x.held if isinstance(x, _Held) else x, (args, kwargs))
        result = func(*on_cpu, **options)
        if not stays:
            return result
        if any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_leaves(result)):
            raise RuntimeError(f"{func} gives float64 at {_line()}, which Apple's GPUs do not have")
        result = tree_map(lambda x: _Held(x) if isinstance(x, Tensor) else x, result)
        return return_and_correct_aliasing(func, args, kwargs, result) if any(there) else result


def _asks(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether the host must know numbers to go on."""
    if func._schema.name.startswith("aten::index"):
        return any(isinstance(x, Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1]))
    if func._schema.name == "aten::repeat_interleave":
        return kwargs.get("output_size") is None
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))


def _line() -> str:
    """The line of ours that is running; autograd's own has none."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("detection", "backbones"):
            return f"{path.relative_to(ROOT).as_posix()}:{frame.lineno}"
    return "autograd"

"""Activation checkpointing: less memory for a second forward pass."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(module: nn.Module, x: Tensor) -> Tensor:
    """Return ``module(x)``; the backward pass computes its activations again instead of keeping them.

    Batch norms count the batch once all the same.
    """
    y: Tensor = checkpoint(module, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _StatisticsKept(module)))
    return y


class _StatisticsKept(AbstractContextManager[Any]):
    """Let batch norms count into copies; entered once in every backward pass.

    Without statistics they would save fewer tensors than the first time, which ``checkpoint`` does not allow.
    """

    def __init__(self, module: nn.Module) -> None:
        norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        self.statistics = [(norm, *named) for norm in norms for named in norm.named_buffers(recurse=False)]

    def __enter__(self) -> None:
        for norm, name, value in self.statistics:
            setattr(norm, name, value.clone())

    def __exit__(self, *_: object) -> None:
        for norm, name, value in self.statistics:
            setattr(norm, name, value)

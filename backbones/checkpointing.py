"""Activation checkpointing: a second forward pass in exchange for less memory."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(module: nn.Module, x: Tensor) -> Tensor:
    """Return ``module(x)``; the backward pass recomputes its activations instead of storing them.

    Batch norms still update their statistics only once per step.
    """
    y: Tensor = checkpoint(module, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _StatisticsKept(module)))
    return y


class _StatisticsKept(AbstractContextManager[Any]):
    """Let batch norms update copies of their statistics while the backward pass recomputes activations.

    Batch norms without statistics would save fewer tensors than in the forward pass, which ``checkpoint`` rejects.
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

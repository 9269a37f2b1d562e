"""Optimizers by config, with few parameter groups, as each group costs kernel launches at every step."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.InstanceNorm2d,
)


@dataclass(frozen=True)
class OptimizerConfig:
    """What turns gradients into steps."""

    name: Literal["sgd", "adamw"] = "sgd"
    """Which one."""
    lr: float = 0.02
    """Learning rate at schedule.reference_batch images per step; scaled in proportion to data.batch_size."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = False
    """Nesterov's momentum, in SGD."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    weight_decay: float = 1e-4
    """Pull towards zero."""
    decay_norms: bool = False
    """Pull the scales and shifts of norms, too."""
    decay_biases: bool = True
    """Pull the other biases, too."""


def build_optimizer(model: nn.Module, config: OptimizerConfig, lr: float, fused: bool = False) -> Optimizer:
    """The optimizer of a model's trainable parameters.

    Args:
        lr: the learning rate in use, after scaling.
        fused: one kernel for the whole step; the parameters must be where that exists (CUDA).
    """
    kind: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
    groups = parameter_groups(model, config)
    if config.name == "adamw":
        return AdamW(groups, lr=lr, betas=config.betas, **kind)
    return SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov, **kind)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """At most two groups: with weight decay and without."""
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            decays = config.decay_norms if isinstance(module, NORMS) else config.decay_biases or name != "bias"
            (decayed if decays else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]

"""Build optimizers with few parameter groups, since each group costs kernel launches at every step."""

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from backbones import Backbone
from backbones.base import parameters_of
from detection.engine.lamb import Lamb
from detection.engine.lightning_mends.optimizers import allow_clipping

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
    """Optimizer, learning rate and weight decay."""

    name: Literal["sgd", "adamw", "lamb"] = "sgd"
    """Kind of the optimizer: SGD, AdamW, or LAMB for batches of thousands of images."""
    lr: float = 0.02
    """Learning rate for schedule.reference_batch images per step; training scales it in proportion to
    data.batch_size."""
    momentum: float = 0.9
    """Momentum of SGD; no effect with the others."""
    nesterov: bool = False
    """Use Nesterov momentum in SGD; no effect with the others."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the averages of the gradient and of its square in AdamW and LAMB; no effect with SGD."""
    weight_decay: float = 1e-4
    """Factor of the weight decay (L2 penalty in SGD, decoupled in the others); 0: none."""
    decay_norms: bool = False
    """Apply weight decay also to the scales and shifts of norms."""
    decay_biases: bool = True
    """Apply weight decay also to biases outside of norms."""
    undecayed: tuple[str, ...] = ()
    """Patterns of names of parameters without weight decay, such as ``*.positions`` for the position embeddings of a
    ViT."""
    layer_decay: float = 1.0
    """Learning rate of each layer of the backbone as a fraction of that of the next layer, above 0 and at most 1. Use
    0.7 to 0.9 for a pretrained transformer, whose layers are its blocks; 1: the same rate for all layers."""

    def check(self) -> None:
        """Reject invalid settings.

        Raises:
            ValueError: the learning rate or weight decay is below 0, or the layer decay is not in (0, 1].
        """
        if self.lr < 0 or self.weight_decay < 0:
            raise ValueError(
                f"model.optimizer.lr {self.lr} and model.optimizer.weight_decay {self.weight_decay} must not be below 0"
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"model.optimizer.layer_decay is {self.layer_decay}; it must be above 0 and at most 1")


def build_optimizer(model: nn.Module, config: OptimizerConfig, lr: float, fused: bool = False) -> Optimizer:
    """Return the optimizer for a model's trainable parameters.

    Args:
        lr: learning rate after scaling with the batch.
        fused: use one kernel for the whole step, if the optimizer has one. The parameters must be on a CUDA device or
            a CPU, and not sharded; the gradients must not be scaled (as for float16).
    """
    fused &= config.name != "lamb"
    kind: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
    groups = parameter_groups(model, config)
    for group in groups:
        group["lr"] = lr * group.pop("lr_scale")
    optimizer: Optimizer
    if config.name == "adamw":
        optimizer = AdamW(groups, lr=lr, betas=config.betas, **kind)
    elif config.name == "lamb":
        optimizer = Lamb(groups, lr=lr, betas=config.betas)
    else:
        optimizer = SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov, **kind)
    optimizer.register_load_state_dict_pre_hook(_keep_kernels)
    if fused:
        allow_clipping(optimizer)
        optimizer.register_step_pre_hook(_match_layouts)
    return optimizer


def _keep_kernels(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return the state with this run's choice of kernels: a checkpoint may be from a device with other kernels."""
    own = [{name: group[name] for name in ("foreach", "fused")} for group in optimizer.param_groups]
    groups = [saved | kernels for saved, kernels in zip(state["param_groups"], own, strict=False)]
    return {**state, "param_groups": groups + state["param_groups"][len(groups) :]}


def _match_layouts(optimizer: Optimizer, *_: Any) -> None:
    """Convert gradients and momentum to the memory layout of their parameter.

    A fused kernel reads memory in order and needs the same layout for all. Autograd creates gradients with it. Momentum
    from a checkpoint whose model had another layout does not have it; nor may a gradient that a custom loop sets.
    (Lightning computes gradients after this hook, inside the step.)
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and _layouts_differ(parameter.grad, parameter):
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and _layouts_differ(value, parameter):
                    state[name] = torch.empty_like(parameter).copy_(value)


def _layouts_differ(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of the same shape have different strides; ignore dimensions of size 1."""
    if one.stride() == other.stride():
        return False
    return any(
        size > 1 and mine != theirs for size, mine, theirs in zip(one.shape, one.stride(), other.stride(), strict=True)
    )


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return parameter groups with and without weight decay for each factor of the learning rate (``lr_scale``).

    The groups are sorted by ``lr_scale``, the largest first.
    """
    scales = layer_scales(model, config.layer_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for place, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            is_bias = name.endswith("bias")  # in_proj_bias of an attention, too
            decays = config.decay_norms if isinstance(module, NORMS) else config.decay_biases or not is_bias
            decays &= not any(fnmatch(f"{place}.{name}", pattern) for pattern in config.undecayed)
            groups.setdefault((scales.get(id(parameter), 1.0), decays), []).append(parameter)
    return [
        {"params": groups[key], "weight_decay": config.weight_decay if key[1] else 0.0, "lr_scale": key[0]}
        for key in sorted(groups, reverse=True)
    ]


def layer_scales(model: nn.Module, decay: float) -> dict[int, float]:
    """Return factors of the learning rate by the ``id`` of the backbone's parameters; for all others, it is 1.

    Of L layers, the last has ``decay`` and the first ``decay ** L`` (ViTDet, appendix; Clark et al. 2020, ELECTRA).
    """
    backbone = getattr(model, "backbone", None)
    if decay == 1 or not isinstance(backbone, Backbone):
        return {}
    layers = backbone.layers()
    return {id(p): decay ** (len(layers) - i) for i, layer in enumerate(layers) for p in parameters_of(layer)}

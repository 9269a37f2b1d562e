"""Change the norm layers and the stochastic depth of a finished network."""

from torch import nn

from backbones.norms import FrozenBatchNorm2d, make_norm


def set_norm_eps(module: nn.Module, eps: float) -> None:
    """Set the epsilon that every batch norm in a module adds to the variance."""
    for norm in module.modules():
        if isinstance(norm, FrozenBatchNorm2d | nn.modules.batchnorm._BatchNorm):
            norm.eps = eps


def replace_norms(module: nn.Module, norm: str) -> nn.Module:
    """Replace every batch norm of a network by another norm and return the network.

    The new norm takes over statistics, scales and shifts. A group norm takes over scales and shifts only, as it has no
    statistics.
    """
    if isinstance(module, nn.BatchNorm2d):
        if norm == "batch":
            return module
        new = make_norm(norm, module.num_features)
        new.eps = module.eps  # type: ignore[assignment]
        new.load_state_dict({k: v for k, v in module.state_dict().items() if k in new.state_dict()})
        return new
    for name, child in module.named_children():
        setattr(module, name, replace_norms(child, norm))
    return module


def set_drop_path(network: nn.Module, rate: float, name: str) -> None:
    """Set the stochastic depth of a torchvision network: the probability with which training skips its last block.

    Those of earlier blocks change in the same proportion.

    Raises:
        ValueError: the network has no stochastic depth.
    """
    from torchvision.ops import StochasticDepth  # here, as its import takes longer than that of PyTorch

    layers = [layer for layer in network.modules() if isinstance(layer, StochasticDepth)]
    last = max((layer.p for layer in layers), default=0.0)
    if not last:
        raise ValueError(f"drop_path: {name} has no stochastic depth; leave drop_path out")
    for layer in layers:
        layer.p *= rate / last

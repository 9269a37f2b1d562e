"""Norms by name, and the frozen one that disappears into the convolution before it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.conv import is_plain, sum_relu
from backbones.fused import conv_sum_relu

Norm = Literal["frozen", "batch", "sync", "group"]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and fixed scale: an affine map per channel.

    Everything is a buffer, so that no optimizer and no training step changes it. State dicts of batch norms fit.
    The result has the dtype of the input: under autocast a float32 result would make every layer after it run in
    float32.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    known: tuple[Tensor, Tensor] | None = None
    """Its affine map, inside :func:`maps_at_once`."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = _scale_and_shift(self)
        return (x * scale[:, None, None].to(x.dtype)).add_(shift[:, None, None].to(x.dtype))

    def _load_from_state_dict(self, state_dict, prefix, *arguments):  # type: ignore[no-untyped-def]
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


def make_norm(name: str, channels: int) -> nn.Module:
    """A norm over ``channels`` channels.

    ``frozen``: fixed statistics; ``batch``: over the batch of one device; ``sync``: over the batch of all devices;
    ``group``: 32 groups (Wu and He 2018), or as many as divide the channels.

    Raises:
        ValueError: another name.
    """
    if name == "frozen":
        return FrozenBatchNorm2d(channels)
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "sync":
        return nn.SyncBatchNorm(channels)
    if name == "group":
        return nn.GroupNorm(max(g for g in range(1, 33) if channels % g == 0), channels)
    raise ValueError(f"unknown norm {name!r}; there are frozen, batch, sync and group")


def set_norm_eps(module: nn.Module, eps: float) -> None:
    """Let every batch norm in a module add ``eps`` to the variance."""
    for norm in module.modules():
        if isinstance(norm, FrozenBatchNorm2d | nn.modules.batchnorm._BatchNorm):
            norm.eps = eps


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module, relu: bool = False, carried: Tensor | None = None) -> Tensor:
    """``relu(norm(conv(x)) + carried)``; few operations where the norm is a fixed affine map.

    The norm's scale goes into the kernel (``w * scale``) and its shift becomes the bias: the same function, and the
    gradient still reaches ``w``. Rounding differs, errors do not: the last features of a ResNet-50 in float32 are 1e-4
    of their standard deviation from those in float64 either way.

    Args:
        x: (B, C, H, W).
        conv, norm: one after the other.
        relu: whether it follows.
        carried: (B, O, H', W') around the convolution, or None.
    """
    if type(norm) is nn.Identity and is_plain(conv):  # folded once and for all
        return conv_sum_relu(x, conv, conv.weight, conv.bias, None, carried, relu)
    if _folds(conv, norm) and not (torch.is_grad_enabled() and _learns(norm)):
        scale, shift = _scale_and_shift(norm)
        return conv_sum_relu(x, conv, conv.weight, shift, scale, carried, relu)
    return sum_relu(norm(conv(x)), carried, relu)


def fold_norm(owner: nn.Module, conv_name: str, norm_name: str) -> None:
    """Fold a norm into its convolution for good, if it is fixed; its place is then taken by the identity."""
    conv, norm = getattr(owner, conv_name), getattr(owner, norm_name)
    if not _folds(conv, norm):
        return
    scale, shift = _scale_and_shift(norm)
    kernel = conv.weight * scale[:, None, None, None]
    conv.weight, conv.bias = nn.Parameter(kernel.detach(), False), nn.Parameter(shift.detach(), False)
    setattr(owner, norm_name, nn.Identity())


def computed_again(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``, whose activations are not kept but computed again in the backward pass.

    Batch norms count the batch once all the same.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if not torch.compiler.is_compiling():  # where a batch counts once anyway, and contexts are not understood
        options["context_fn"] = lambda: (nullcontext(), _StatisticsKept(module))
    y: Tensor = checkpoint(module, x, **options)
    return y


class _StatisticsKept(AbstractContextManager[None]):
    """Inside, batch norms count into copies; entered once in every backward pass.

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


def _folds(conv: nn.Conv2d, norm: nn.Module) -> bool:
    fixed = type(norm) is FrozenBatchNorm2d or not norm.training
    plain = is_plain(conv) and is_plain(norm, FrozenBatchNorm2d, nn.BatchNorm2d)
    return plain and fixed and conv.bias is None


def _learns(norm: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in norm.parameters())


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The affine map of a fixed norm in float32: (C,) and (C,)."""
    assert isinstance(norm, FrozenBatchNorm2d | nn.BatchNorm2d)
    if isinstance(norm, FrozenBatchNorm2d) and norm.known is not None:
        return norm.known
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


@contextmanager
def maps_at_once(network: nn.Module) -> Iterator[None]:
    """Inside, all frozen norms know their affine maps, in five operations instead of five for each of 53.

    A GPU is asked for few things then; a processor has them at once either way.
    """
    norms = [module for module in network.modules() if type(module) is FrozenBatchNorm2d]
    if not norms or norms[0].weight.device.type == "cpu":
        yield
        return
    with torch.no_grad():
        scales = torch._foreach_add([norm.running_var for norm in norms], [norm.eps for norm in norms])
        torch._foreach_rsqrt_(scales)
        torch._foreach_mul_(scales, [norm.weight for norm in norms])
        shifts = torch._foreach_mul([norm.running_mean for norm in norms], scales)
        shifts = torch._foreach_sub([norm.bias for norm in norms], shifts)
    for norm, scale, shift in zip(norms, scales, shifts, strict=True):
        norm.known = scale, shift
    try:
        yield
    finally:
        for norm in norms:
            norm.known = None


def replace_norms(module: nn.Module, norm: str) -> nn.Module:
    """The same network with every batch norm replaced by another norm; statistics and scales are carried over.

    Group norms carry over scales and shifts alone, as they have no statistics.
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

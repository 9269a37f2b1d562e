"""Faster versions of the plain networks: the same results up to rounding, from the same parameters.

:func:`convert` is the only entry point. It replaces the class of each known module in a finished network by a subclass
with a faster ``forward``. Parameters, names, hooks and state dicts stay the same. :func:`revert` undoes this. Modules
of other classes, such as your own subclasses, do not change. A faster ``forward`` still calls every inner layer that
has hooks or an unknown class (pruning, adapters, probes).
"""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from backbones.fast import switch
from backbones.fast.conv import Conv2d
from backbones.fast.resnet import FastBasicBlock, FastBottleneck, FastResNet
from backbones.resnet import BasicBlock, Bottleneck, ResNet

FASTER: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    BasicBlock: FastBasicBlock,
    Bottleneck: FastBottleneck,
    ResNet: FastResNet,
}
"""The faster class for each plain class."""

M = TypeVar("M", bound=nn.Module)


def convert(network: M, faster: Mapping[type[nn.Module], type[nn.Module]] = FASTER) -> M:
    """Replace the classes of modules by faster ones, in place, and return the network.

    With ``RCNN_FAST=0`` in the environment, the function does nothing.

    Args:
        network: a finished network.
        faster: the faster class for each plain class.
    """
    return network if switch.is_off() else _swap(network, faster)


def revert(network: M, faster: Mapping[type[nn.Module], type[nn.Module]] = FASTER) -> M:
    """Undo :func:`convert`, in place, and return the network."""
    return _swap(network, {fast: plain for plain, fast in faster.items()})


def _swap(network: M, classes: Mapping[type[nn.Module], type[nn.Module]]) -> M:
    for module in network.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
    return network

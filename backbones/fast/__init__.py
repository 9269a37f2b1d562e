"""Faster forms of the plain networks: the same numbers up to rounding, from the same parameters.

:func:`convert` is the one door. It gives each module of a finished network, whose class it knows, a subclass with a
faster ``forward``; parameters, names, hooks and state dicts stay. :func:`revert` undoes it. Modules of other classes,
such as your own subclasses, stay as they are. Inside a faster ``forward``, a layer that has hooks or another class
(pruning, adapters, probes) is still called.
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
"""The faster class of each plain one."""

M = TypeVar("M", bound=nn.Module)


def convert(network: M, faster: Mapping[type[nn.Module], type[nn.Module]] = FASTER) -> M:
    """Give the modules of a network their faster forms, in place, and return it.

    It does nothing with ``RCNN_FAST=0`` in the environment.

    Args:
        network: a finished network.
        faster: the faster class of each plain one.
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

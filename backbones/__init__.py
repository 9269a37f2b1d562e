"""Backbones: networks that extract feature maps at several scales from an image.

``build(BackboneConfig(name="resnet50"))`` returns a :class:`Backbone` with its ``channels`` and ``strides``.
``classifier("resnet50")`` returns the same network with an output layer, see :mod:`backbones.classifiers`. The package
does not depend on ``detection``, so you can use it alone.
"""

import difflib
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from backbones.base import Backbone
from backbones.custom import imported
from backbones.inputs import widen_input
from backbones.mobilenet import MobileNetV3C5
from backbones.norms import FrozenBatchNorm2d, make_norm
from backbones.pretrained import load_weights
from backbones.replacing import replace_norms, set_norm_eps
from backbones.resnet import VARIANTS, ResNet
from backbones.torchvision_adapter import TorchvisionBackbone, torchvision_names
from backbones.vit import VITS, VisionTransformer
from backbones.vitdet import VITDETS, ViTDet

if TYPE_CHECKING:
    from backbones.classifiers import classifier

MOBILENET = "mobilenet_v3_large_c5"
"""The backbone of two torchvision detectors. ``available()`` does not list it, as its maps have only one stride."""

RESNET_OPTIONS = ("width", "zero_init_last_norm", "dilate_last_stage", "checkpoint", "stride_in_1x1")
"""Fields of :class:`BackboneConfig` that only the networks of :data:`VARIANTS` support."""

__all__ = ["Backbone", "BackboneConfig", "FrozenBatchNorm2d", "ResNet", "available", "build", "classifier", "make_norm"]


@dataclass(frozen=True)
class BackboneConfig:
    """Backbone: architecture, initial weights and frozen stages."""

    name: str = "resnet50"
    """A name from ``backbones.available()``, ``timm/NAME``, or the import path of your class, ``my_lab.nets.MyNet``."""
    weights: str | None = None
    """Initial weights: ``imagenet``, the path of a file, or None (random)."""
    norm: Literal["frozen", "batch", "sync", "group"] = "batch"
    """Kind of the norm layers. frozen: fixed statistics and scales from the weights. batch, sync (batch norm over all
    devices) and group are trainable."""
    norm_eps: float | None = None
    """Epsilon that batch norms add to the variance; None: the backbone's default (1e-5 in a ResNet)."""
    freeze: int | tuple[str, ...] = 0
    """Frozen stages. 0: none, 1: the stem, 2: the stem and the first stage, up to 5. Or a list of names or patterns,
    such as ``[stem, layer1]``."""
    width: int = 64
    """Channels of the first stage of a ResNet; 64 in the paper, 16 or 32 for small machines."""
    zero_init_last_norm: bool = False
    """Start every residual block as the identity."""
    dilate_last_stage: bool = False
    """Keep the last stage at stride 16."""
    checkpoint: bool = False
    """Activation checkpointing: recompute activations in the backward pass to save memory."""
    stride_in_1x1: bool = False
    """Stride in the first 1x1 convolution of a bottleneck, as Caffe's weights need it, instead of in the 3x3 one."""
    in_channels: int = 3
    """Channels of the images. If it is not 3, the first convolution is adapted from its RGB weights."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel (0..255), which normalisation subtracts; None: the backbone's default."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel (0..255), by which normalisation divides; None: the backbone's default."""
    drop_path: float | None = None
    """Stochastic depth: probability with which training skips the last block; earlier ones have less. None: the default
    of the network. ResNets, and networks without such blocks, do not support it."""


def build(config: BackboneConfig) -> Backbone:
    """Build the backbone that a config describes.

    Raises:
        ValueError: the name is unknown (the message suggests similar names), the weights do not fit, a stage to freeze
            does not exist, or the backbone does not support an option.
    """
    backbone = _body(config)
    # A ViT has no batch norms; the group norms in the pyramid above it do not count.
    if config.norm == "group" and (config.name in VITS or not _has(backbone, nn.GroupNorm)):
        raise ValueError(
            f"backbone.norm: {config.name} has no batch norms that group norms could replace; set norm to batch"
        )
    if config.in_channels != 3:
        widen_input(backbone, config.in_channels)
    backbone.mean, backbone.std = config.mean or backbone.mean, config.std or backbone.std
    for key, values in (("mean", backbone.mean), ("std", backbone.std)):
        if len(values) != config.in_channels:
            raise ValueError(
                f"the length of backbone.{key} is {len(values)}, but in_channels is {config.in_channels}; "
                "give one value per channel"
            )
    if config.norm_eps is not None:
        set_norm_eps(backbone, config.norm_eps)
    backbone.freeze(config.freeze)
    return backbone


def available() -> list[str]:
    """Return the names of the toolkit's own backbones and of torchvision's."""
    return [*VARIANTS, *torchvision_names(), *VITS, *VITDETS]


def is_known(name: str) -> bool:
    """Return whether a name belongs to the toolkit, torchvision or timm, and is not an import path."""
    return _is_own(name) or re.fullmatch(r"timm/[\w.]+", name) is not None or name in torchvision_names()


def _is_own(name: str) -> bool:
    """Return whether a name is known without torchvision's list, whose import is slower than that of PyTorch."""
    return name in (*VARIANTS, *VITS, *VITDETS, MOBILENET)


def check_name(name: str) -> None:
    """Raise an error for an unknown backbone name.

    Raises:
        ValueError: the name is unknown; the message suggests similar names.
    """
    if _is_own(name) or name.startswith("timm/") or "." in name or name in torchvision_names():
        return
    near = difflib.get_close_matches(name, available(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"use {', '.join(VARIANTS)} or a name from torchvision"
    raise ValueError(f"unknown backbone {name!r}; {hint} (timm/NAME and import paths work, too)")


def _body(config: BackboneConfig) -> Backbone:
    check_name(config.name)
    _check_options(config)
    if config.name.startswith("timm/"):
        from backbones.timm_adapter import TimmBackbone

        return TimmBackbone(config.name.removeprefix("timm/"), config.weights, config.norm, config.drop_path)
    if config.name in VITDETS:
        return ViTDet(VITDETS[config.name], config.weights, config.drop_path or 0.0)
    if config.name == MOBILENET:
        if config.weights is not None:
            raise ValueError(
                f"weights: {config.weights}; {MOBILENET} has no separate weights. Leave weights out; the weights of "
                "a complete detector include those of this backbone"
            )
        return MobileNetV3C5(config.norm)
    if config.name in VITS:
        return VisionTransformer(config.name, config.weights)
    if config.name not in VARIANTS:
        if config.name in torchvision_names():
            return TorchvisionBackbone(config.name, config.weights, config.norm, config.drop_path)
        return _imported(config)
    network = ResNet(
        VARIANTS[config.name],
        norm=config.norm,
        width=config.width,
        zero_init_last_norm=config.zero_init_last_norm,
        dilate_last_stage=config.dilate_last_stage,
        checkpoint=config.checkpoint,
        stride_in_1x1=config.stride_in_1x1,
    )
    if config.weights is not None:
        load_weights(network, config.name, config.weights)
    return network


def _check_options(config: BackboneConfig) -> None:
    """Raise an error if the config sets an option that the backbone does not support."""
    if config.drop_path is not None:
        if not 0 <= config.drop_path < 1:
            raise ValueError(f"backbone.drop_path is {config.drop_path}; it must be at least 0 and below 1")
        if config.name in (*VARIANTS, *VITS, MOBILENET) or not is_known(config.name):
            raise ValueError(f"backbone.drop_path: {config.name} has no stochastic depth; leave drop_path out")
    if config.name in VARIANTS:
        return
    for field in fields(config):
        if field.name in RESNET_OPTIONS and getattr(config, field.name) != field.default:
            raise ValueError(
                f"backbone.{field.name}: {config.name} does not support this option; only the toolkit's own ResNets do"
            )


def _imported(config: BackboneConfig) -> Backbone:
    """Build a custom backbone from its import path, then load its weights and replace its norms."""
    backbone = imported(config.name)
    if config.weights is not None:
        load_weights(backbone, config.name, config.weights)
    replace_norms(backbone, config.norm)
    return backbone


def _has(backbone: Backbone, kind: type[nn.Module]) -> bool:
    return any(isinstance(module, kind) for module in backbone.modules())


def __getattr__(name: str) -> Any:
    """Import :func:`~backbones.classifiers.classifier` when a program asks for it."""
    if name != "classifier":
        raise AttributeError(f"module 'backbones' has no attribute {name!r}")
    from backbones.classifiers import classifier

    return classifier

"""Networks that see: from an image to feature maps at several scales.

``build(BackboneConfig(name="resnet50"))`` gives a :class:`Backbone`, which tells its channels and strides; the
package knows nothing of detection and can be used alone.
"""

import difflib
import re
from dataclasses import dataclass, fields
from typing import Literal

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

MOBILENET = "mobilenet_v3_large_c5"
"""Of two of torchvision's detectors; not offered, as its maps have one stride."""

OF_RESNETS = ("width", "zero_init_last_norm", "dilate_last_stage", "checkpoint", "stride_in_1x1")
"""Fields of :class:`BackboneConfig` that the networks of :data:`VARIANTS` alone have."""

__all__ = ["Backbone", "BackboneConfig", "FrozenBatchNorm2d", "ResNet", "available", "build", "make_norm"]


@dataclass(frozen=True)
class BackboneConfig:
    """Which backbone, with what weights, and what of it learns."""

    name: str = "resnet50"
    """A name of ``backbones.available()``, ``timm/NAME``, or an import path of your own, ``my_lab.nets.MyNet``."""
    weights: str | None = None
    """Where to start from: ``imagenet``, a file, or nothing (random)."""
    norm: Literal["frozen", "batch", "sync", "group"] = "batch"
    """What batch norms are or become. frozen: keep the statistics of the weights; batch, sync (over devices) and group
    learn."""
    norm_eps: float | None = None
    """What batch norms add to the variance; the backbone's own (1e-5) if not given."""
    freeze: int | tuple[str, ...] = 0
    """Stages that do not learn: 0 none, 1 the stem, 2 the stem and the first stage, up to 5; or their names or
    patterns, as in ``[stem, layer1]``."""
    width: int = 64
    """Channels of the first stage of a ResNet; 64 in the paper, 16 or 32 for small machines."""
    zero_init_last_norm: bool = False
    """Start every residual block as the identity."""
    dilate_last_stage: bool = False
    """Keep the last stage at stride 16."""
    checkpoint: bool = False
    """Save memory: compute activations again in the backward pass."""
    stride_in_1x1: bool = False
    """Stride in the first convolution of a bottleneck, as Caffe's weights want it."""
    in_channels: int = 3
    """Channels of the images; other than three, the first convolution is made from that for red, green and blue."""
    mean: tuple[float, ...] | None = None
    """What to subtract from each channel (0..255); the backbone's own if not given."""
    std: tuple[float, ...] | None = None
    """What to divide by; the backbone's own if not given."""


def build(config: BackboneConfig) -> Backbone:
    """The backbone that a config describes.

    Raises:
        ValueError: a name that is unknown (with the nearest ones), weights that do not fit, stages to freeze that do
            not exist, or an option that the backbone would not follow.
    """
    backbone = _body(config)
    # The pyramid over a ViT has group norms whatever is asked for.
    if config.norm == "group" and (config.name in VITS or not _has(backbone, nn.GroupNorm)):
        raise ValueError(f"backbone.norm: {config.name} has no batch norms to make group norms of; take norm batch")
    if config.in_channels != 3:
        widen_input(backbone, config.in_channels)
    backbone.mean, backbone.std = config.mean or backbone.mean, config.std or backbone.std
    for key, values in (("mean", backbone.mean), ("std", backbone.std)):
        if len(values) != config.in_channels:
            raise ValueError(f"the number of values of {key} is {len(values)}, but in_channels is {config.in_channels}")
    if config.norm_eps is not None:
        set_norm_eps(backbone, config.norm_eps)
    backbone.freeze(config.freeze)
    return backbone


def available() -> list[str]:
    """Names of the toolkit's own backbones and of torchvision's."""
    return [*VARIANTS, *torchvision_names(), *VITS]


def is_known(name: str) -> bool:
    """Whether this names a backbone of the toolkit, torchvision or timm, and not an import path."""
    return _is_own(name) or re.fullmatch(r"timm/[\w.]+", name) is not None or name in torchvision_names()


def _is_own(name: str) -> bool:
    """Return whether a name needs no look into torchvision's list, whose import takes longer than that of PyTorch."""
    return name in (*VARIANTS, *VITS, MOBILENET)


def check_name(name: str) -> None:
    """Refuse a name that nothing answers to.

    Raises:
        ValueError: with the nearest names.
    """
    if _is_own(name) or name.startswith("timm/") or "." in name or name in torchvision_names():
        return
    near = difflib.get_close_matches(name, available(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(VARIANTS)} and torchvision's"
    raise ValueError(f"unknown backbone {name!r}; {hint} (timm/NAME and import paths work, too)")


def _body(config: BackboneConfig) -> Backbone:
    check_name(config.name)
    _check_options(config)
    if config.name.startswith("timm/"):
        from backbones.timm_adapter import TimmBackbone

        return TimmBackbone(config.name.removeprefix("timm/"), config.weights, config.norm)
    if config.name == MOBILENET:
        if config.weights is not None:
            raise ValueError(f"weights: {config.weights}; {MOBILENET} comes with a whole detector's weights only")
        return MobileNetV3C5(config.norm)
    if config.name in VITS:
        return VisionTransformer(config.name, config.weights)
    if config.name not in VARIANTS:
        if config.name in torchvision_names():
            return TorchvisionBackbone(config.name, config.weights, config.norm)
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
    """Refuse options that a backbone would not follow."""
    if config.name in VARIANTS:
        return
    for field in fields(config):
        if field.name in OF_RESNETS and getattr(config, field.name) != field.default:
            raise ValueError(f"backbone.{field.name}: {config.name} has no such option; the ResNets of this toolkit do")


def _imported(config: BackboneConfig) -> Backbone:
    """A custom class or function, by its import path; weights and norms as for any other."""
    backbone = imported(config.name)
    if config.weights is not None:
        load_weights(backbone, config.name, config.weights)
    replace_norms(backbone, config.norm)
    return backbone


def _has(backbone: Backbone, kind: type[nn.Module]) -> bool:
    return any(isinstance(module, kind) for module in backbone.modules())

"""Measure a backbone: parameters, multiply-adds, receptive field and memory.

Counting runs on PyTorch's meta device, which computes only shapes. So its time does not depend on the image size.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from backbones import Backbone, BackboneConfig, build
from backbones.base import parameters_of
from backbones.vitdet import ViTDet

REACH = (32, 3072)
"""Height and width of the strip on which receptive fields are measured."""
SHORT_REACH = (32, 256)
"""The same for a network that pads images to squares and attends to all of them."""


@dataclass(frozen=True)
class Costs:
    """Costs of a backbone for one image of a given size."""

    parameters: int
    """Number of parameters, without a classifier."""
    multiply_adds: int
    """Multiply-adds of convolutions, matrix products and attention; most papers call them FLOPs."""
    activation_bytes: int
    """Bytes of the activations that the backward pass needs for one image, in float32."""


def costs(backbone: str | BackboneConfig, height: int, width: int) -> Costs:
    """Count the costs of a backbone, by name or config, for one image, without computing features.

    Raises:
        ValueError: the name is unknown.
    """
    config = BackboneConfig(backbone) if isinstance(backbone, str) else replace(backbone, weights=None)
    with torch.device("meta"):
        network = build(config).train()
        image = torch.empty(1, config.in_channels, height, width)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    with FlopCounterMode(display=False) as counter:
        saved = _saved_bytes(network, image)
    return Costs(parameters, counter.get_total_flops() // 2, saved)


def _saved_bytes(backbone: Backbone, image: Tensor) -> int:
    """Return the bytes that autograd stores in a forward pass; counts each storage once."""
    kept: dict[int, Any] = {}  # holds the storages, so that PyTorch does not free one and reuse its address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        features = backbone(image)
    weights = {parameter.untyped_storage()._cdata for parameter in (*backbone.parameters(), *backbone.buffers())}
    del features
    return sum(storage.nbytes() for key, storage in kept.items() if key not in weights)


@torch.inference_mode()
def receptive_fields(backbone: Backbone, strip: tuple[int, int] = REACH) -> list[int | None]:
    """Measure the receptive field of each stage along a row, in pixels; None: the complete row.

    One input pixel is NaN, and every cell that depends on it becomes NaN, for any kind of layer. The function does this
    for each offset within a stride. In total, the NaNs reach as many cells as a cell depends on pixels. If the field
    depends on the position, as in window attention, the result is the mean. It runs in float64, because faster code for
    float32 can spread or lose a NaN (:mod:`backbones.fast.winograd`, :mod:`backbones.fast.fused`).
    """
    backbone = copy.deepcopy(backbone).eval().double()
    reached = [0] * len(backbone.strides)
    everything = [False] * len(backbone.strides)
    middle = strip[1] // 2
    for offset in range(max(backbone.strides)):
        image = torch.zeros(1, len(backbone.mean), *strip, dtype=torch.float64)
        image[..., middle + offset] = torch.nan
        for i, feature in enumerate(backbone(image)):
            hit = feature[0].isnan().flatten(0, 1).any(dim=0)
            everything[i] |= bool(hit[0] or hit[-1])
            reached[i] += int(hit.sum())
        if all(everything):
            break
    spans = [count * stride / max(backbone.strides) for count, stride in zip(reached, backbone.strides, strict=True)]
    return [None if every else round(span) for every, span in zip(everything, spans, strict=True)]


def describe(name: str, height: int = 800, width: int = 1333) -> str:
    """Return a text that describes a backbone."""
    found = costs(name, height, width)
    backbone = build(BackboneConfig(name))
    fields = receptive_fields(backbone, SHORT_REACH if isinstance(backbone, ViTDet) else REACH)
    lines = [
        f"{name}: {found.parameters / 1e6:.2f} M parameters",
        f"at {height} x {width}: {found.multiply_adds / 1e9:.1f} GFLOPs (a multiply-add is one), "
        f"{found.activation_bytes / 1e9:.2f} GB kept for the backward pass of an image in float32",
        "",
        f"{'feature':10s}{'channels':>10s}{'stride':>10s}{'sees, px':>12s}",
    ]
    for i, (channels, stride, field) in enumerate(zip(backbone.channels, backbone.strides, fields, strict=True)):
        seen = "whole image" if field is None else str(field)
        lines.append(f"{f'C{i + 2}':10s}{channels:10d}{stride:10d}{seen:>12s}")
    lines += ["", f"{'freeze':10s}{'parameters':>12s}"]
    for i, stage in enumerate(backbone.stages()):
        count = sum(parameter.numel() for parameter in parameters_of(stage))
        lines.append(f"{'stem' if i == 0 else f'layer{i}':10s}{count:12,d}")
    return "\n".join(lines)

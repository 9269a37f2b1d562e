"""What a backbone is, found out by running it: parameters, multiply-adds, receptive field, memory.

Counting runs on PyTorch's meta device, which computes shapes alone, so that it takes as long for a large image.
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

REACH = (32, 3072)
"""Height and width of the strip on which receptive fields are measured."""


@dataclass(frozen=True)
class Costs:
    """Of one image of a given size through a backbone."""

    parameters: int
    """All of them, without a classifier."""
    multiply_adds: int
    """Of convolutions, matrix products and attention; what most papers call FLOPs."""
    activation_bytes: int
    """What the backward pass needs of one image, in float32."""


def costs(backbone: str | BackboneConfig, height: int, width: int) -> Costs:
    """Count what a backbone, by name or config, needs for one image, without computing it.

    Raises:
        ValueError: an unknown name.
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
    """Bytes that autograd keeps of a forward pass; a storage that several operations keep counts once."""
    kept: dict[int, Any] = {}  # the storages themselves, so that none is freed and its address used again

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
    """Pixels in a row that a cell of each stage depends on; None for all of them.

    A pixel that is not a number makes every cell that depends on it not a number, whatever the layers are. A pixel at
    each offset within a stride, one after the other, reaches as many cells as a cell sees pixels. Where that depends
    on the place, as with windows of attention, it is the mean. In float64, as the faster ways in float32 spread or lose
    what is not a number (:mod:`backbones.fast.winograd`, :mod:`backbones.fast.fused`).
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
    spans = [count * stride / max(backbone.strides) for count, stride in zip(reached, backbone.strides, strict=True)]
    return [None if every else round(span) for every, span in zip(everything, spans, strict=True)]


def describe(name: str, height: int = 800, width: int = 1333) -> str:
    """A page about a backbone, for people."""
    found = costs(name, height, width)
    backbone = build(BackboneConfig(name))
    fields = receptive_fields(backbone)
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

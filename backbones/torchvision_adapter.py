"""torchvision's classifiers as backbones.

The families are VGG, DenseNet, EfficientNet, MobileNet, RegNet, ConvNeXt, Swin and MaxViT. Each network is a chain of
layers. The adapter runs a copy on PyTorch's meta device, which needs no memory, to find the stride of each layer. A
stage ends with the last layer of its stride; the adapter drops the layers after the last stage (the classifier).

Functions import torchvision only when they run: the import is slower than that of PyTorch, and most detectors do not
need it.
"""

from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.maxvit import take_any_size
from backbones.padding import cut_to, pad_to
from backbones.pretrained import imagenet_weights, load_state, read_weights
from backbones.replacing import replace_norms, set_drop_path

FAMILIES = ("vgg", "densenet", "efficientnet", "mobilenet", "regnet", "convnext", "swin", "maxvit")
STRIDES = (4, 8, 16, 32)
PROBE = (4, 6)
"""Height and width of the image for the trial run, in multiples. They differ, so that each axis can be identified."""


@cache
def torchvision_names() -> tuple[str, ...]:
    """Return the names of torchvision's networks that can be backbones."""
    from torchvision import models

    return tuple(name for name in models.list_models(module=models) if name.startswith(FAMILIES))


class TorchvisionBackbone(Backbone):
    """A torchvision network, split into stages at strides 4, 8, 16 and 32.

    MaxViT needs sides that are multiples of 224 pixels. The backbone pads images to such sides and cuts the padding off
    the feature maps.

    Args:
        name: one of :func:`torchvision_names`.
        weights: ``imagenet``, a file in torchvision's layout, or None (random).
        norm: the norm that replaces batch norms; layer norms stay.
        drop_path: probability with which training skips the last block; None: torchvision's default.

    Raises:
        ValueError: the weights do not exist, cannot be downloaded, or do not fit; or there is no stochastic depth.
    """

    def __init__(
        self, name: str, weights: str | None = None, norm: str = "batch", drop_path: float | None = None
    ) -> None:
        super().__init__()
        model = _classifier(name)
        if drop_path is not None:
            set_drop_path(model, drop_path, name)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            probe = _classifier(name)
        self.multiple = STRIDES[-1] * getattr(model, "partition_size", 1)  # only MaxViT has a partition size
        self.padded = self.multiple > STRIDES[-1]
        ends, self.channels, self.channels_last = _discover(_chain(probe), self.multiple)
        chain = _chain(model)
        self.strides = STRIDES
        self.smallest = STRIDES[-1]
        cuts = [0, *(end + 1 for end in ends)]
        stages = [nn.Sequential(*chain[a:b]) for a, b in pairwise(cuts)]
        if weights is not None:
            state = imagenet_weights(name) if weights == "imagenet" else read_weights(weights)
            source = weights if weights != "imagenet" else f"ImageNet weights of {name}"
            load_state(model, state, source, _names_in(model, stages))
        self.body = nn.ModuleList(replace_norms(stage, norm) for stage in stages)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x, features = pad_to(images, self.multiple) if self.padded else images, []
        self.check_size(x)
        for stage in self.body:
            x = stage(x)
            features.append(x.permute(0, 3, 1, 2) if self.channels_last else x)
        return cut_to(features, images, self.strides) if self.padded else tuple(features)

    def stages(self) -> list[nn.Module]:
        """Return the stem (the first layer), the rest of the first stage, and the other stages."""
        first = list(self.body[0].children())  # type: ignore[union-attr]
        return [first[0], nn.Sequential(*first[1:]), *list(self.body)[1:]]


def _names_in(model: nn.Module, stages: list[nn.Sequential]) -> set[str]:
    """Return the model's names of the parameters and buffers in the stages, without those of the classifier."""
    kept = {id(value) for stage in stages for value in stage.state_dict(keep_vars=True).values()}
    return {name for name, value in model.state_dict(keep_vars=True).items() if id(value) in kept}


def _classifier(name: str) -> Any:
    """Return the complete network with random weights."""
    from torchvision import models

    if not name.startswith("regnet"):
        return models.get_model(name, weights=None)
    device = torch.get_default_device()
    with torch.device("cpu"):  # RegNet computes its widths with tensors, which fails on the meta device
        return models.get_model(name, weights=None).to(device)


def _chain(model: Any) -> list[nn.Module]:
    """Return the layers before the pooling, in order."""
    if hasattr(model, "features"):
        return list(model.features)
    if hasattr(model, "blocks"):
        return [model.stem, *(take_any_size(block) for block in model.blocks)]  # MaxViT
    return [model.stem, *model.trunk_output]  # RegNet


@torch.no_grad()
def _discover(chain: list[nn.Module], multiple: int) -> tuple[list[int], tuple[int, ...], bool]:
    """Return the index of the last layer of each stride, its channels, and whether channels are the last axis."""
    height, width = multiple * PROBE[0], multiple * PROBE[1]
    x = torch.empty(1, 3, height, width, device="meta")
    ends: dict[int, int] = {}
    channels: dict[int, int] = {}
    last = False
    for i, layer in enumerate(chain):
        x = layer.eval()(x)
        last = x.shape[1] * width == x.shape[2] * height
        stride = height // x.shape[1 if last else 2]
        ends[stride], channels[stride] = i, x.shape[3 if last else 1]
    return [ends[s] for s in STRIDES], tuple(channels[s] for s in STRIDES), last

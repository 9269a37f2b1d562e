"""Image classifiers: a backbone, global average pooling and a linear layer.

He et al. 2015, "Deep residual learning for image recognition", section 4.1. Parameters have the names of torchvision or
timm, so that their state dicts load completely, and those of this class load there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import check_name
from backbones.base import IMAGENET_MEAN, IMAGENET_STD
from backbones.pretrained import check_state, imagenet_weights, read_weights
from backbones.replacing import replace_norms, set_drop_path
from backbones.resnet import VARIANTS, ResNet
from backbones.stochastic_depth import set_stochastic_depth


@dataclass(frozen=True)
class ClassifierConfig:
    """Network, initial weights and output layer of a classifier."""

    name: str = "resnet50"
    """A name from ``backbones.available()``, or ``timm/NAME``."""
    weights: str | None = None
    """Initial weights: ``imagenet``, the path of a file in the layout of torchvision or timm, or None (random)."""
    norm: Literal["frozen", "batch", "sync", "group"] = "batch"
    """Kind of the norm layers; see :class:`backbones.BackboneConfig`."""
    dropout: float = 0.0
    """Probability with which training sets an input of the last layer to zero."""
    width: int = 64
    """Channels of the first stage of a ResNet; 64 in the paper."""
    zero_init_last_norm: bool = False
    """Start every residual block as the identity (ResNet only)."""
    drop_path: float | None = None
    """Stochastic depth: probability with which training skips the last block, and earlier blocks less often; null: the
    default of the network, 0 for ResNets."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a classifier at test time."""

    resize: int = 256
    """Shorter side after resizing, in pixels."""
    crop: int = 224
    """Side of the square that is cut from the centre, in pixels."""
    interpolation: str = "bilinear"
    """Method of resizing: ``bilinear`` or ``bicubic``, with antialiasing."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each channel, 0..255, which normalisation subtracts."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each channel, by which normalisation divides."""


class Classifier(nn.Module):
    """A network that maps images to class logits.

    ``network`` has the state dict of torchvision or timm. :meth:`features` returns the inputs of its last layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, last: str, preprocessing: Preprocessing, config: ClassifierConfig) -> None:
        super().__init__()
        self.network, self.last, self.config = network, last, config
        self.names: tuple[str, ...] | None = None  # class names by label, set from a data set
        self.multi_label = False  # whether an image may have several classes, each with a probability by sigmoid
        self.set_preprocessing(preprocessing)

    def set_preprocessing(self, preprocessing: Preprocessing) -> None:
        """Set how images become inputs; :meth:`forward` applies its mean and std."""
        self.preprocessing = preprocessing
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.last_layer.out_features

    @property
    def last_layer(self) -> nn.Linear:
        """The linear layer that returns the logits."""
        layer: nn.Linear = self.network.get_submodule(self.last)  # type: ignore[assignment]
        return layer

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, C, H, W), RGB in 0..255, uint8 or float."""
        return self.network((images.to(self.mean.dtype) - self.mean) / self.std)  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        """Return the inputs (B, C) of the last layer, for a k-NN classifier or a linear probe."""
        seen: list[Tensor] = []
        hook = self.last_layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
        try:
            self(images)
        finally:
            hook.remove()
        return seen[0]


class ResNetClassifier(ResNet):
    """A ResNet that returns class logits (B, K) instead of feature maps."""

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return self.fc(super().forward(images)[-1].mean(dim=(2, 3)))  # type: ignore[misc, no-any-return]


class DropoutLinear(nn.Linear):
    """A linear layer with dropout on its inputs; the parameters have the names of ``nn.Linear``."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__(inputs, outputs)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, self.dropout, self.training))


def classifier(
    name: str = "resnet50",
    num_classes: int = 1000,
    weights: str | None = None,
    norm: Literal["frozen", "batch", "sync", "group"] = "batch",
    dropout: float = 0.0,
    width: int = 64,
    zero_init_last_norm: bool = False,
    drop_path: float | None = None,
) -> Classifier:
    """Build an image classifier.

    The weights of the last layer are loaded if they are for ``num_classes`` classes. Otherwise the last layer starts
    from random weights, as for transfer to other classes.

    Args:
        num_classes: K.
        name, weights, norm, dropout, width, zero_init_last_norm, drop_path: see :class:`ClassifierConfig`.

    Raises:
        ValueError: the name is unknown, the weights do not fit, or the network does not support an option.

    Example:
        >>> from backbones import classifier
        >>> sum(p.numel() for p in classifier("resnet50").parameters())
        25557032
    """
    config = ClassifierConfig(name, weights, norm, dropout, width, zero_init_last_norm, drop_path)
    return build_classifier(num_classes, config)


def build_classifier(num_classes: int, config: ClassifierConfig) -> Classifier:
    """Build the classifier that a config describes; see :func:`classifier`."""
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a classifier needs at least 1 class")
    check_name(config.name)
    for option, default in (("width", 64), ("zero_init_last_norm", False)):
        if config.name not in VARIANTS and getattr(config, option) != default:
            raise ValueError(f"{option}: {config.name} does not support this option; only the toolkit's ResNets do")
    if config.drop_path is not None and not 0 <= config.drop_path < 1:
        raise ValueError(f"drop_path is {config.drop_path}; it must be at least 0 and below 1")
    network, preprocessing = _network(num_classes, config)
    last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    if config.weights is not None:
        _load(network, last, config)
    network = replace_norms(network, config.norm)
    if config.dropout:
        layer: nn.Linear = network.get_submodule(last)  # type: ignore[assignment]
        dropped = DropoutLinear(layer.in_features, layer.out_features, config.dropout)
        dropped.load_state_dict(layer.state_dict())
        network.set_submodule(last, dropped)
    return Classifier(network, last, preprocessing, config)


def _network(num_classes: int, config: ClassifierConfig) -> tuple[nn.Module, Preprocessing]:
    """Return the network with random weights, and how its images are prepared."""
    if config.name.startswith("timm/"):
        return _timm_network(config.name.removeprefix("timm/"), num_classes, config.drop_path)
    if config.name in VARIANTS:
        network = ResNetClassifier(
            VARIANTS[config.name],
            width=config.width,
            zero_init_last_norm=config.zero_init_last_norm,
            num_classes=num_classes,
        )
        nn.init.normal_(network.fc.weight, std=0.01)  # type: ignore[union-attr]
        nn.init.zeros_(network.fc.bias)  # type: ignore[union-attr]
        if config.drop_path:
            set_stochastic_depth(network, config.drop_path)
    else:
        from torchvision import models

        network = models.get_model(config.name, weights=None, num_classes=num_classes)
        if config.drop_path is not None:
            set_drop_path(network, config.drop_path, config.name)
    return network, torchvision_preprocessing(config.name)


def torchvision_preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing of torchvision's best weights for a network; the usual one if there are none."""
    from torchvision.models import get_model_weights

    try:
        preset = get_model_weights(name).DEFAULT.transforms()  # type: ignore[attr-defined]
    except ValueError:
        return Preprocessing()
    mean, std = (tuple(255 * value for value in values) for values in (preset.mean, preset.std))
    return Preprocessing(preset.resize_size[0], preset.crop_size[0], preset.interpolation.value, mean, std)


def _timm_network(name: str, num_classes: int, drop_path: float | None) -> tuple[nn.Module, Preprocessing]:
    """Return one of timm's networks with random weights, and how its images are prepared."""
    from backbones.timm_adapter import check_timm_name

    timm = check_timm_name(name)
    depth = {} if drop_path is None else {"drop_path_rate": drop_path}
    try:
        network = timm.create_model(name, num_classes=num_classes, **depth)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise ValueError(f"drop_path: timm/{name} has no stochastic depth; leave drop_path out") from None
    settings = timm.data.resolve_model_data_config(network)
    crop = settings["input_size"][-1]
    mean, std = (tuple(255 * value for value in settings[key]) for key in ("mean", "std"))
    return network, Preprocessing(int(crop / settings["crop_pct"]), crop, settings["interpolation"], mean, std)


def _load(network: nn.Module, last: str, config: ClassifierConfig) -> None:
    """Load the weights of a config into a network; those of the last layer only if their shape fits."""
    state, source = _state(config)
    own = network.state_dict()
    head = {f"{last}.weight", f"{last}.bias"}
    fits = all(key in state and state[key].shape == own[key].shape for key in head & own.keys())
    network.load_state_dict(check_state(network, state, source, own.keys() - (set() if fits else head)), strict=False)


def _state(config: ClassifierConfig) -> tuple[Mapping[str, Tensor], str]:
    """Return the initial weights, and how error messages call them."""
    if config.weights != "imagenet":
        return read_weights(str(config.weights)), str(config.weights)
    source = f"ImageNet weights of {config.name}"
    if config.name.startswith("timm/"):
        import timm

        return timm.create_model(config.name.removeprefix("timm/"), pretrained=True).state_dict(), source
    return imagenet_weights(config.name), source

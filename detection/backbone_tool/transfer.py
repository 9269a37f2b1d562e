"""Compare training from transferred weights with training from random ones, with little data.

A network learns some synthetic shapes from many images. Its weights, without the last layer, then start the training
on a few images of other shapes.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbones.resnet import VARIANTS, ResNet
from detection.backbone_tool.residual import SHAPES, fit, make_images

FIRST, OTHERS = SHAPES[:4], SHAPES[4:]
"""Shapes of the first training, and of the one with little data."""
TESTED = 800
"""Images to test on."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on test images over several seeds, as fractions."""

    images: int
    """Training images."""
    transferred: tuple[float, ...]
    """One value for each seed."""
    scratch: tuple[float, ...]


@dataclass(frozen=True)
class Settings:
    """Settings of all trainings."""

    name: str = "resnet18"
    width: int = 16
    side: int = 32
    lr: float = 0.02
    batch: int = 32
    first_images: int = 2048
    """Images of the first training."""
    first_steps: int = 1000
    steps: int = 150
    """Steps on the other shapes."""


def compare(counts: Sequence[int], seeds: int, settings: Settings = Settings()) -> tuple[float, list[Accuracy]]:
    """Train on the first shapes, then on few images of the other shapes: from these weights, and from random ones.

    Args:
        counts: numbers of training images of the other shapes.
        seeds: number of draws of images, order and random weights.
        settings: settings of all trainings.

    Returns:
        Training error of the first training at its end, and the accuracies for each number of images.
    """
    torch.manual_seed(0)
    first = ResNet(VARIANTS[settings.name], width=settings.width, num_classes=len(FIRST))
    data = make_images(settings.first_images, settings.side, 0, FIRST)
    curve = fit(first, "first", data, settings.first_steps, settings.batch, settings.lr, 0, settings.first_steps // 10)
    tested = make_images(TESTED, settings.side, 1_000_000, OTHERS)
    found = []
    for count in counts:
        runs = [_both(first, count, seed, tested, settings) for seed in range(seeds)]
        found.append(Accuracy(count, tuple(one for one, _ in runs), tuple(other for _, other in runs)))
    return curve.errors[-1], found


def _both(
    first: ResNet, count: int, seed: int, tested: tuple[Tensor, Tensor], settings: Settings
) -> tuple[float, float]:
    """Return the accuracy from the transferred weights, and from random ones, on the same images in the same order."""
    data = make_images(count, settings.side, 1 + seed, OTHERS)
    accuracies = []
    for start in (first, None):
        torch.manual_seed(seed)
        network = ResNet(VARIANTS[settings.name], width=settings.width, num_classes=len(OTHERS))
        if start is not None:
            own = {name: value for name, value in start.state_dict().items() if not name.startswith("fc.")}
            network.load_state_dict(copy.deepcopy(own), strict=False)
        fit(network, "", data, settings.steps, min(settings.batch, count), settings.lr, seed, settings.steps)
        accuracies.append(_accuracy(network, tested))
    return accuracies[0], accuracies[1]


@torch.inference_mode()
def _accuracy(network: ResNet, tested: tuple[Tensor, Tensor]) -> float:
    network.eval()
    logits = torch.cat([network.classify(images) for images in tested[0].split(100)])
    network.train()
    return float((logits.argmax(dim=1) == tested[1]).float().mean())


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half width of the 95 % interval of a mean over a few seeds, by Student's distribution."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, STUDENT[min(len(values) - 2, len(STUDENT) - 1)] * math.sqrt(variance / len(values))


STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % points of Student's distribution with 1 to 9 degrees of freedom."""

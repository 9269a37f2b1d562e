"""Parameters and operations of image classifiers, counted without computing anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from backbones.classifiers import classifier

FAMILIES = {
    "VGG": ("vgg11", "vgg13", "vgg16", "vgg19"),
    "ResNet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
}


@dataclass(frozen=True)
class ClassifierCosts:
    """Costs of a classifier with 1000 classes."""

    family: str
    name: str
    parameters: int
    multiply_adds: int
    """For one image."""


def classifier_costs(families: Mapping[str, Sequence[str]] = FAMILIES, side: int = 224) -> list[ClassifierCosts]:
    """Count the costs of classifiers.

    Args:
        families: names of the networks of each family.
        side: side of the image in pixels.

    Example:
        >>> classifier_costs({"VGG": ["vgg16"]})[0].parameters
        138357544
    """
    found = []
    for family, names in families.items():
        for name in names:
            with torch.device("meta"):
                model = classifier(name).eval()
                images = torch.empty(1, 3, side, side)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model(images)
            parameters = sum(parameter.numel() for parameter in model.parameters())
            found.append(ClassifierCosts(family, name, parameters, counter.get_total_flops() // 2))
    return found

"""Measure how well the features of a frozen network separate the classes of labelled images."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from backbones.classifiers import Classifier, classifier
from detection.classifier_files import load_classifier, load_pretrained_network, pretrained_file
from detection.data.labelled import LabelledImages
from detection.data.labelled_dataset import LabelledDataset, collate_labelled
from detection.engine.classify.data_config import LabelledConfig, LabelledSplit
from detection.engine.classify.datamodule import LabelledDataModule
from detection.engine.configs import load_yaml
from detection.engine.errors import user_input
from detection.evaluation.probe import NEIGHBOURS, interval, linear_probe, nearest_neighbours
from detection.home import with_home


@dataclass(frozen=True)
class Probe:
    """Accuracy of a simple classifier of the features."""

    name: str
    right: int
    """Number of validation images with the right class."""
    images: int
    """Number of validation images."""

    @property
    def top1(self) -> float:
        """Accuracy, as a fraction."""
        return self.right / self.images

    def row(self) -> str:
        """Return a row of a Markdown table: name, accuracy and its 95 % interval, in percent."""
        low, high = interval(self.right, self.images)
        return f"| {self.name} | {100 * self.top1:.1f} | {100 * low:.1f} to {100 * high:.1f} |"


def open_images(settings: Mapping[str, str], model: Classifier) -> tuple[LabelledDataset, LabelledDataset]:
    """Return the training and the validation images, as the classifier sees them at test time.

    Args:
        settings: settings of the data by name, as on the command line: ``{"root": "flowers", "val": "null"}``.
        model: classifier, for its preprocessing.

    Raises:
        InputError: the images cannot be found, or there are none for validation.
    """
    values: dict[str, Any] = {name: load_yaml(value) for name, value in settings.items()}
    for name in ("train", "val", "test"):
        if values.get(name) is not None:
            values[name] = LabelledSplit(**values[name])
    known = {field.name for field in fields(LabelledConfig)}
    made = model.preprocessing
    size = {"size": made.crop, "resize": made.resize, "interpolation": made.interpolation}
    data = LabelledDataModule(**{name: value for name, value in values.items() if name in known}, **size)
    with user_input():
        data.read(("train", "val"))
        if "val" not in data.images:
            raise ValueError("there are no images for validation; add a folder val, or set --val-fraction above 0")
        for name in ("train", "val"):
            if not len(data.images[name]):
                raise ValueError(f"the split {name} of {values.get('root')} has no images")
    train, val = (_dataset(data.images[name], data.config) for name in ("train", "val"))
    return train, val


def _dataset(images: LabelledImages, config: LabelledConfig) -> LabelledDataset:
    return LabelledDataset(images, config.transform("val"), config.seed, config.reading("val"))


@torch.no_grad()
def features_of(model: Classifier, data: LabelledDataset, batch: int = 64, workers: int = 0) -> tuple[Tensor, Tensor]:
    """Return the features (n, C) float32 of all images, and their labels (n,) int64, on the CPU.

    Args:
        model: the network; it runs in evaluation mode, on its device.
        data: the images.
        batch: images at a time.
        workers: processes that load images.
    """
    model.eval()
    loader = DataLoader(data, batch, num_workers=workers, collate_fn=collate_labelled)
    found = [(model.features(each.images.to(model.mean.device)).float().cpu(), each.labels) for each in loader]
    features, labels = zip(*found, strict=True)
    return torch.cat(features), torch.cat(labels)


def probe(
    model: Classifier, train: LabelledDataset, val: LabelledDataset, batch: int = 64, workers: int = 0
) -> list[Probe]:
    """Return the validation accuracy of nearest neighbours and of a linear layer on the features of a network."""
    features, labels = features_of(model, train, batch, workers)
    tested, truth = features_of(model, val, batch, workers)
    neighbours = min(NEIGHBOURS, len(labels))
    found = {
        f"{neighbours} nearest neighbours": nearest_neighbours(features, labels, tested),
        "linear probe": linear_probe(features, labels, tested),
    }
    return [Probe(name, int((given == truth).sum()), len(truth)) for name, given in found.items()]


def network(name: str, weights: str | None) -> Classifier:
    """Return the network of a run or file of a classifier or of a pretraining, or of a name of a backbone.

    Args:
        name: folder or file of a classifier or of a pretraining without labels, or a name from ``rcnn backbones list``.
        weights: for a name: ``imagenet`` or a file; None: random.

    Raises:
        ValueError: the name is unknown, or the weights do not fit.
    """
    if not Path(with_home(name)).exists():
        torch.manual_seed(0)
        return classifier(name, weights=weights).eval()
    if weights is not None:
        raise ValueError(f"--weights: {name} has its own weights; remove the option")
    if pretrained_file(name) is not None:
        return load_pretrained_network(name)
    return load_classifier(name)

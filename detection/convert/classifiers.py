"""Write a classifier, or the mean of several, to one file for other programs."""

from collections.abc import Sequence
from pathlib import Path

import torch

from backbones.classifiers import Classifier
from detection.checkpoint_files import replacing
from detection.classifier_description import describe_classifier
from detection.classifier_files import load_classifier, save_classifier
from detection.convert.average import mean
from detection.convert.export import check_format
from detection.home import with_home


def average_classifiers(sources: Sequence[str]) -> Classifier:
    """Load classifiers, and return the mean of their weights and norm statistics, computed in float64.

    Raises:
        ValueError: a source is no classifier, or has other settings, classes or preprocessing than the last one.
    """
    models = [load_classifier(source) for source in sources]
    described = [{**describe_classifier(model), "versions": None} for model in models]
    for source, own in zip(sources, described, strict=True):
        if own != described[-1]:
            raise ValueError(f"{source} has other classes or settings than {sources[-1]}; give runs of the same model")
    states = [model.state_dict() for model in models]
    models[-1].load_state_dict({name: mean([state[name] for state in states]) for name in states[-1]})
    return models[-1]


def check_classifier_format(path: Path, format: str | None) -> None:
    """Check that a format is known and goes with the ending of a file's name; see ``check_format``."""
    check_format(Path(with_home(str(path))), format)


def write_classifier(model: Classifier, path: str | Path, format: str | None = None) -> None:
    """Write a classifier to one file.

    Args:
        model: the classifier.
        path: the file.
        format: ``safetensors``, with classes and settings, or ``torchvision``: a state dict with the names of
            torchvision or, for a network of timm, of timm. None chooses it by the ending of the file's name.

    Raises:
        ValueError: an unknown format, or a file name with the ending of another one.
        OSError: as for :func:`~detection.checkpoint_files.replacing`.
    """
    path = Path(with_home(str(path)))
    check_format(path, format)
    if path.suffix == ".safetensors":
        return save_classifier(model, path)
    with replacing(path) as file:
        torch.save(model.network.state_dict(), file)

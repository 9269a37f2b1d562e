"""Find a classifier: in a run's folder, a file, or an export."""

from pathlib import Path

import torch

from backbones.classifiers import Classifier
from detection.classifier_files import classifier_file, is_classifier, load_classifier
from detection.export.classifiers import ExportedClassifier, describes_classifier
from detection.export.loading import is_exported, open_exported
from detection.home import with_home


def find_classifier(
    source: str | Path, device: str | torch.device = "cpu", trust_code: bool = False, unchecked: bool = False
) -> Classifier | None:
    """Load a classifier, in evaluation mode; return None if the source is none.

    Args:
        source: a run's folder, a checkpoint, a safetensors file, an export, or the source of a detector.
        device: device of the classifier; an export needs ``cpu``.
        trust_code: also load an export with the format ``torch``, whose file can run code.
        unchecked: also load an export that did not pass its parity gate, or has none.

    Raises:
        ValueError: the source is a classifier that cannot be loaded.
    """
    path = Path(with_home(str(source)))
    if classifier_file(path) is not None:
        return load_classifier(path, device)
    if not is_exported(path):
        return None
    beside = (path if path.is_dir() else path.parent) / "model.json"
    if beside.is_file() and not describes_classifier(path):
        return None
    session, file = open_exported(path, unchecked, trust_code)  # a file alone says inside what it is
    return ExportedClassifier(session, file).to(device) if is_classifier(session.metadata.get("rcnn")) else None

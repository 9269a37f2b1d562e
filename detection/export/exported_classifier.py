"""Load an exported file as a classifier: predict and evaluate use it like a checkpoint."""

from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from backbones.classifiers import Classifier
from detection.classifier_description import is_classifier, restored
from detection.documents import read_json
from detection.export.loading import is_exported, open_exported
from detection.export.runtime import Session
from detection.wording import plural


class ExportedClassifier(Classifier):
    """A classifier that an engine computes on the CPU."""

    def __init__(self, session: Session, path: Path) -> None:
        nn.Module.__init__(self)
        config, num_classes, names, preprocessing, multi_label = restored(session.metadata.get("rcnn"), str(path))
        self.session, self.path, self.config = session, path, config
        self._classes, self.names, self.multi_label = num_classes, names, multi_label
        self.set_preprocessing(preprocessing)
        self.eval()

    @property
    def num_classes(self) -> int:
        """K."""
        return self._classes

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, 3, S, S) uint8, RGB."""
        side = self.preprocessing.crop
        if images.dtype != torch.uint8 or images.shape[1:] != (3, side, side):
            raise ValueError(
                f"images: this export takes uint8 (B, 3, {side}, {side}), got {images.dtype} {tuple(images.shape)}"
            )
        logits = torch.from_numpy(self.session.run(images.contiguous().numpy())[0])
        if logits.shape != (len(images), self.num_classes):
            raise ValueError(
                f"{self.path}: returns {tuple(logits.shape)}, but describes {plural(self.num_classes, 'class')}"
            )
        return logits

    def features(self, images: Tensor) -> NoReturn:
        raise ValueError("an exported classifier returns logits alone; load the checkpoint for its features")

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if fn(torch.zeros(1)).device.type != "cpu":
            raise ValueError("an exported classifier runs on the CPU here; use --device cpu")
        return self


def describes_classifier(source: str | Path) -> bool:
    """Return whether a source is an export whose ``model.json`` describes a classifier. Read no model."""
    path = Path(source)
    if not is_exported(path):
        return False
    settings = (path if path.is_dir() else path.parent) / "model.json"
    try:
        return is_classifier(read_json(settings).get("rcnn"))
    except (OSError, ValueError, AttributeError):
        return False


def find_exported(source: str | Path, trust_code: bool = False, unchecked: bool = False) -> ExportedClassifier | None:
    """Load an exported file, or the folder of an export, as a classifier; return None if it is none.

    Args:
        source: the file, the folder, or the source of a detector.
        trust_code: also load a program of ``torch.export``, whose file can run code.
        unchecked: also load a file that did not pass its parity gate, or has none.

    Raises:
        ValueError: the source is an export that cannot be loaded.
    """
    path = Path(source)
    if not is_exported(path):
        return None
    beside = (path if path.is_dir() else path.parent) / "model.json"
    if beside.is_file() and not describes_classifier(path):
        return None
    session, file = open_exported(path, unchecked, trust_code)  # a file alone says inside what it is
    return ExportedClassifier(session, file) if is_classifier(session.metadata.get("rcnn")) else None

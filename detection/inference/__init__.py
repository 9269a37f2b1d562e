"""From an image to the objects in it.

:mod:`.api` is the way in. An image passes :mod:`.images` (reading and checking), :mod:`.views` or :mod:`.tiles` (how
often the detector looks at it), :mod:`.detect` (one run of the detector), and leaves as a :class:`Prediction`.
:class:`Predictor` holds a detector and offers all this as methods. :mod:`.command` predicts on folders and videos.

Names are imported when they are first used, so that a command that only checks its options starts quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detection.inference.api import load_model, predict, predict_batch
    from detection.inference.images import Image
    from detection.inference.info import ModelInfo, model_info
    from detection.inference.prediction import Detection, Prediction
    from detection.inference.predictor import Predictor

_HOMES = {
    "Detection": "detection.inference.prediction",
    "Image": "detection.inference.images",
    "ModelInfo": "detection.inference.info",
    "Prediction": "detection.inference.prediction",
    "Predictor": "detection.inference.predictor",
    "load_model": "detection.inference.api",
    "model_info": "detection.inference.info",
    "predict": "detection.inference.api",
    "predict_batch": "detection.inference.api",
}

__all__ = [
    "Detection",
    "Image",
    "ModelInfo",
    "Prediction",
    "Predictor",
    "load_model",
    "model_info",
    "predict",
    "predict_batch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'detection.inference' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

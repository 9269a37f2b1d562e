"""Detect the objects in images.

Start with :mod:`.api`. :mod:`.images` reads and checks an image. :mod:`.views` or :mod:`.tiles` decide how often the
detector runs on it, and :mod:`.detect` runs the detector. The result is a :class:`Prediction`. :class:`Predictor` wraps
a detector and has all functions as methods. :mod:`.folders` predicts on folders and videos.

The package imports each name at its first use, so that a command that only checks its options starts quickly.
"""

from typing import TYPE_CHECKING

from detection.lazy import lazy_names

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


__getattr__, __dir__ = lazy_names(__name__, _HOMES)

"""A class around a trained detector, with methods to predict, describe and save."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from detection.checkpoint import save_model
from detection.device import find_device
from detection.inference.api import load_detector, predict, predict_group
from detection.inference.images import Image
from detection.inference.info import ModelInfo, kind_of, model_info
from detection.inference.prediction import Prediction
from detection.inference.thresholds import LEAST_SCORE, Scores, class_names
from detection.models.detector import Detector


class Predictor:
    """Predict with a trained detector.

    A detector is only a network: its input and output are tensors. This class adds images, files and checkpoints. Each
    method also exists as a function.

    Args:
        model: a detector, or any source for :func:`load_model`: a checkpoint, a run folder or a published name.
        device: ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` uses the GPU if there is one. None keeps the device of a given
            detector, and loads any other source to the CPU.
        trust_code: import the custom backbone that the checkpoint names. This runs the code of the backbone.

    Raises:
        ValueError: as for :func:`load_model`.

    Example:
        >>> predictor = Predictor("torchvision:maskrcnn_resnet50_fpn_v2", device="auto")  # doctest: +SKIP
        >>> predictor.predict("street.jpg").save("found.jpg")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Detector | str | Path,
        device: str | torch.device | None = None,
        trust_code: bool = False,
    ) -> None:
        if isinstance(model, Detector):
            self.model = model if device is None else model.to(find_device(device))
        else:
            self.model = load_detector(model, trust_code, device or "cpu")

    @overload
    def predict(
        self,
        images: Image,
        score_threshold: Scores = LEAST_SCORE,
        size: tuple[int, int] | None = None,
        tile: int | None = None,
        short_sides: Sequence[int] = (),
        flip: bool = False,
        batch_size: int = 4,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        images: list[Image] | list[str] | list[Path] | list[np.ndarray] | list[Tensor] | tuple[Image, ...],
        score_threshold: Scores = LEAST_SCORE,
        size: tuple[int, int] | None = None,
        tile: int | None = None,
        short_sides: Sequence[int] = (),
        flip: bool = False,
        batch_size: int = 4,
    ) -> list[Prediction]: ...

    def predict(
        self,
        images: Image | Sequence[Image],
        score_threshold: Scores = LEAST_SCORE,
        size: tuple[int, int] | None = None,
        tile: int | None = None,
        short_sides: Sequence[int] = (),
        flip: bool = False,
        batch_size: int = 4,
    ) -> Prediction | list[Prediction]:
        """Detect the objects in an image, or in each image of a list.

        Args:
            images: as for :func:`~detection.predict`.
            score_threshold, size, tile, short_sides, flip: as for :func:`~detection.predict`.
            batch_size: number of images per model call, for a list of images.

        Raises:
            ValueError: as for :func:`~detection.predict`.
        """
        if isinstance(images, list | tuple) and not any(isinstance(one, int | float | list | tuple) for one in images):
            return list(self.stream(images, score_threshold, size, tile, short_sides, flip, batch_size))
        return predict(self.model, images, score_threshold, size, tile, short_sides, flip)  # type: ignore[arg-type]

    __call__ = predict

    def stream(
        self,
        images: Iterable[Image],
        score_threshold: Scores = LEAST_SCORE,
        size: tuple[int, int] | None = None,
        tile: int | None = None,
        short_sides: Sequence[int] = (),
        flip: bool = False,
        batch_size: int = 4,
    ) -> Iterator[Prediction]:
        """Yield one prediction per image; use it for more images than fit into memory.

        Args:
            images: each as for :func:`~detection.predict`. The method reads an image only when its batch is due.
            score_threshold, size, tile, short_sides, flip, batch_size: as for :meth:`predict`.

        Raises:
            ValueError: as for :func:`~detection.predict`.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: must be at least 1")
        rest = iter(images)
        while some := list(islice(rest, batch_size)):
            yield from predict_group(self.model, some, score_threshold, size, tile, short_sides, flip)

    @property
    def classes(self) -> list[str]:
        """Class names by label; the labels as text if the model has no names."""
        return list(class_names(self.model))

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.pixel_mean.device

    def info(self) -> ModelInfo:
        """Describe the model: kind, backbone, classes, parameters, operations; ``print`` it for a table."""
        return model_info(self.model)

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint that :func:`load_model` reads, and return its path.

        Raises:
            ValueError, OSError: as for :func:`~detection.save_model`.
        """
        save_model(self.model, path)
        return Path(path)

    def export(self, path: str | Path, format: str | None = None) -> Path:
        """Write one file for other programs, and return its path; arguments as for ``model.export``."""
        from detection.convert.export import export

        return export(self.model, path, format)

    def __repr__(self) -> str:
        return f"Predictor({kind_of(self.model)}, classes: {len(self.classes)}, device: {self.device})"

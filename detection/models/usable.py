"""Methods of a detector for users. They import the packages above this one only when a user calls them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from detection.inference import Image, ModelInfo, Prediction
    from detection.models.thresholds import Thresholds
    from detection.scoring import Evaluation


class Usable(nn.Module):
    """Methods for users, as in :class:`detection.Predictor`; they run on the device of the weights."""

    thresholds: "Thresholds | None" = None
    """Score thresholds that were chosen on validation data, which checkpoints and exports hold."""

    def predict(self, images: Any, **options: Any) -> Any:
        """Detect the objects in an image, or in each image of a list.

        Args:
            images: a file, an array, a tensor, or a list of these, as for :func:`detection.predict`.
            options: as for :meth:`detection.Predictor.predict`: ``score_threshold``, ``size``, ``tile``, ``flip``, ...

        Returns:
            A :class:`detection.Prediction`, or a list of them for a list.

        Raises:
            ValueError: as for :func:`detection.predict`.

        Example:
            >>> load_model("runs/first").predict("street.jpg").save("found.jpg")  # doctest: +SKIP
        """
        return self._predictor().predict(images, **options)

    def stream(self, images: "Iterable[Image]", **options: Any) -> "Iterator[Prediction]":
        """Yield the prediction of each image, for more images than fit into memory; see :meth:`predict`."""
        return self._predictor().stream(images, **options)  # type: ignore[no-any-return]

    def info(self) -> "ModelInfo":
        """Describe the detector: classes, backbone, parameters, operations. ``print`` shows a table."""
        return self._predictor().info()  # type: ignore[no-any-return]

    def evaluate(self, data: str | Path | None = None, **options: Any) -> "Evaluation":
        """Score the detector on a data set and write a report; arguments as for :func:`detection.evaluate`."""
        from detection.scoring import evaluate

        return evaluate(self, data, **options)  # type: ignore[arg-type]

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint that :func:`detection.load_model` reads, and return its path.

        Raises:
            ValueError, OSError: as for :func:`detection.save_model`.
        """
        return self._predictor().save(path)  # type: ignore[no-any-return]

    def export(self, path: str | Path, format: str | None = None) -> Path:
        """Write one file for other programs, and return its path; does what ``rcnn export`` does.

        Args:
            format: ``safetensors`` or ``torchvision``; None chooses it by the ending: ``.safetensors`` or ``.pth``.

        Raises:
            ValueError, OSError: as :func:`detection.convert.export.export`.

        Example:
            >>> load_model("runs/first").export("detector.safetensors")  # doctest: +SKIP
        """
        return self._predictor().export(path, format)  # type: ignore[no-any-return]

    def _predictor(self) -> Any:
        from detection.inference import Predictor

        return Predictor(self)  # type: ignore[arg-type]  # every detector is one of these

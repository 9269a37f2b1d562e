"""The three steps of an image: decode it, detect its objects, write the answer."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
import orjson
import torch

from detection.data.bands import has_bands, npy_size
from detection.data.header import stored_size
from detection.data.image import decode_image
from detection.data.tiff import is_tiff
from detection.inference.api import predict_batch
from detection.inference.prediction import Prediction
from detection.inference.thresholds import LEAST_SCORE, class_names, own_thresholds
from detection.models.detector import Detector
from detection.serve.limits import Rejected
from detection.serve.messages import Answer, Asked

MEDIA = {".jpg": "image/jpeg", ".png": "image/png"}
"""Formats of a drawn image, and their media types."""
LONGEST_JPEG = 65_500
"""Longest side of a JPEG, in pixels."""


@dataclass(frozen=True)
class Decoded:
    """A request with its pixels."""

    asked: Asked
    pixels: np.ndarray
    """(H, W, C) uint8 or uint16."""
    damage: str | None = None
    """A line about damage in the file that the decoder could read over."""


@dataclass(frozen=True)
class Found:
    """A request with its detections."""

    decoded: Decoded
    prediction: Prediction
    seconds: float
    """Time of the detector for the whole batch."""


class Detecting:
    """The steps for :class:`~detection.serve.batcher.Batcher`.

    Args:
        model: the detector. Only :meth:`run` uses it for computing.
        score: score threshold of each class by name, or ``model``, as :func:`detection.predict` takes them.
        size: (shortest, longest) image side for the model; None uses the model's ``test_size``.
        bf16: compute in bfloat16 where PyTorch supports it.
        max_pixels: largest number of pixels of an image.
    """

    def __init__(
        self,
        model: Detector,
        score: dict[str, float] | Literal["model"],
        size: tuple[int, int] | None = None,
        bf16: bool = False,
        max_pixels: int = 50_000_000,
    ) -> None:
        self.model, self.names = model.eval(), class_names(model)
        self.size, self._bf16, self._max_pixels = size, bf16, max_pixels
        self._own = own_thresholds(model) if score == "model" else None
        if self._own is not None:
            self.limits = self._own.of_classes(LEAST_SCORE).numpy()
        else:
            self.limits = np.array([score[name] for name in self.names], dtype=np.float32)  # type: ignore[index]

    def shown_limits(self) -> np.ndarray:
        """Return the score threshold of each class, (K,), for the scores of the answers."""
        return self.limits if self._own is None else self._own.calibrated(torch.from_numpy(self.limits)).numpy()

    def decode(self, asked: Asked) -> Decoded:
        """Check and decode an image.

        Raises:
            Rejected: these bytes are no image, have too many pixels, or are damaged.
        """
        stored = npy_size if has_bands(asked.data) and not is_tiff(asked.data) else stored_size
        size = stored(asked.data)
        if size is None:
            raise Rejected(415, "no image of a known format, or its header is broken; send a JPEG or PNG")
        if size[0] * size[1] > self._max_pixels:
            message = f"the image claims {size[1]} x {size[0]} pixels, more than {self._max_pixels}; scale it down"
            raise Rejected(413, message)
        damage: list[str] = []
        channels, depth = len(self.model.pixel_mean), self.model.depth
        try:
            pixels = decode_image(
                asked.data, "image", max_pixels=self._max_pixels, channels=channels, depth=depth, damage=damage
            )
        except ValueError as error:
            raise Rejected(422, str(error)) from error
        return Decoded(asked, pixels, damage[0] if damage else None)

    def run(self, batch: list[Decoded]) -> list[Found]:
        """Detect the objects in the images of a batch."""
        begin = time.monotonic()
        with self._precision():
            predictions = predict_batch(self.model, [one.pixels for one in batch], self._least(batch), self.size)
        seconds = time.monotonic() - begin
        return [
            Found(one, self._selected(one.asked, prediction), seconds)
            for one, prediction in zip(batch, predictions, strict=True)
        ]

    def finish(self, found: Found) -> Answer:
        """Write the answer: JSON, or a drawn image."""
        asked = found.decoded.asked
        if asked.picture is not None:
            return Answer(_drawn(found.prediction, asked.picture), MEDIA[asked.picture])
        content: dict[str, Any] = found.prediction.to_dict()
        del content["image"]
        times = {"model": found.seconds, "total": time.monotonic() - asked.began}
        content["milliseconds"] = {name: round(1e3 * seconds, 1) for name, seconds in times.items()}
        if found.decoded.damage is not None:
            content["warning"] = found.decoded.damage
        return Answer(orjson.dumps(content), "application/json")

    def warm_up(self) -> None:
        """Run the detector once, so that the first request does not wait for compilers and memory."""
        dtype = np.uint8 if self.model.depth == 8 else np.uint16
        blank = np.zeros((64, 64, len(self.model.pixel_mean)), dtype=dtype)
        self.run([Decoded(Asked(b"", time.monotonic()), blank)])

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.model.pixel_mean.device.type, torch.bfloat16, enabled=self._bf16)

    def _least(self, batch: Sequence[Decoded]) -> dict[str, float]:
        """Return the smallest threshold that a request of the batch has for each class; no mask is encoded below it."""
        scores = [one.asked.score for one in batch]
        limits = [np.full(len(self.names), self._uncalibrated(score)) for score in scores if score is not None]
        limits += [self.limits] if None in scores else []
        return dict(zip(self.names, np.min(limits, axis=0).tolist(), strict=True))

    def _uncalibrated(self, score: float) -> float:
        """Return a threshold below which no calibrated score can reach a score."""
        return score if self._own is None or self._own.temperature is None else 0.0

    def _selected(self, asked: Asked, found: Prediction) -> Prediction:
        """Return the detections that a request wants, with calibrated scores if the server has them."""
        keep = found.scores >= self.limits[found.labels]
        if self._own is not None:
            scores = self._own.calibrated(torch.from_numpy(found.scores)).numpy()
            found = replace(found, scores=scores)
        if asked.score is not None:
            keep = found.scores >= asked.score
        if asked.classes:
            keep = keep & np.isin(found.names, asked.classes)
        return found.only(keep)


def _drawn(found: Prediction, format: str) -> bytes:
    """Draw the detections into the image, and encode it.

    Raises:
        Rejected: the format cannot hold an image of this size.
    """
    picture = found.plot()
    if format == ".jpg" and max(picture.shape[:2]) > LONGEST_JPEG:
        raise Rejected(422, f"a JPEG has at most {LONGEST_JPEG} pixels a side; accept image/png instead")
    return bytes(cv2.imencode(format, picture[..., ::-1])[1].tobytes())

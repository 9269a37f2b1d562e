"""Pictures in the run's folder: what the network is fed, and what it answers beside the truth."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from detection.fast.pasting import encode_masks
from detection.structures import IGNORE, Batch, Detections
from detection.visualize import as_rgb, draw, side_by_side


class Pictures(Callback):
    """``train_batch.jpg`` at the start, ``val_predictions_STEP.jpg`` at every validation; by the first rank only.

    Args:
        num: images on each.
        score_threshold: of the predictions that are drawn.
    """

    def __init__(self, num: int = 4, score_threshold: float = 0.5) -> None:
        self.num, self.score_threshold = num, score_threshold
        self._folder: Path | None = None
        self._pairs: list[np.ndarray] = []
        self._started = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # asks all ranks
        self._folder = Path(folder) if folder is not None and trainer.is_global_zero else None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, index: int) -> None:
        if self._started or self._folder is None:
            return
        self._started = True
        draw_batch(self._folder / "train_batch.jpg", module, batch, self.num)

    def on_validation_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._pairs = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._folder is None or trainer.sanity_checking:
            return
        names = _names(module)
        for i in range(min(self.num - len(self._pairs), len(batch.images))):
            if int(batch.image_ids[i]) == IGNORE:
                continue
            found: Detections = outputs["detections"].image(i)
            keep = found.scores >= self.score_threshold
            found = Detections(*(None if v is None else v[keep] for v in found))  # type: ignore[arg-type]
            prediction = _draw(_image(batch, i), found.boxes, found.labels, found.scores, found.masks, names)
            self._pairs.append(side_by_side(_draw_truth(batch, i, names), prediction))

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._folder is not None and self._pairs:
            _write(self._folder / f"val_predictions_{trainer.global_step:06d}.jpg", self._pairs)


def draw_batch(path: Path, module: LightningModule, batch: Batch, num: int) -> None:
    """Write the first ``num`` images of a batch with their objects."""
    names = _names(module)
    _write(path, [_draw_truth(batch, i, names) for i in range(min(num, len(batch.images)))])


def _names(module: LightningModule) -> tuple[str, ...]:
    return module.model.categories.names  # type: ignore[union-attr,return-value]


def _image(batch: Batch, i: int) -> np.ndarray:
    """The ``i``-th image without the canvas around it: (H, W, 3) uint8."""
    height, width = batch.sizes[i].tolist()
    return as_rgb(batch.images[i, :, :height, :width].permute(1, 2, 0).cpu().numpy())


def _draw_truth(batch: Batch, i: int, names: tuple[str, ...]) -> np.ndarray:
    if batch.targets is None:
        return _image(batch, i)
    targets = batch.targets
    keep = (targets.labels[i] != IGNORE) & ~targets.crowd[i]
    masks = None if targets.masks is None else (targets.masks[i][keep] == 1).float()
    return _draw(_image(batch, i), targets.boxes[i][keep], targets.labels[i][keep], None, masks, names)


def _draw(
    image: np.ndarray,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor | None,
    masks: Tensor | None,
    names: tuple[str, ...],
) -> np.ndarray:
    height, width = image.shape[:2]
    boxes = boxes.float().cpu()
    rles = None if masks is None else encode_masks(masks.float().cpu(), boxes, height, width)
    score = None if scores is None else scores.float().cpu().numpy()
    return draw(image, boxes.numpy(), labels.cpu().numpy(), score, rles, names)


def _write(path: Path, pictures: list[np.ndarray], columns: int = 2, longest: int = 4000) -> None:
    """All pictures on one sheet of cells of the same size."""
    height, width = (max(picture.shape[side] for picture in pictures) for side in (0, 1))
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height, min(columns, len(pictures)) * width, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    scale = min(1.0, longest / max(sheet.shape))
    if scale < 1:
        sheet = cv2.resize(sheet, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(sheet[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    path.write_bytes(encoded.tobytes())

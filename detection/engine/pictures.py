"""Write image sheets into the folder of a run: training batches, and predictions beside the ground truth."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from detection.categories import Categories
from detection.checkpoint_files import replacing
from detection.evaluation.maps import predicted_map
from detection.evaluation.percent import percent
from detection.fast.pasting import encode_masks
from detection.foreign import shown
from detection.models.panoptic import PanopticFPN
from detection.run_files import IMAGES
from detection.sheets import Tile, sheet
from detection.structures import IGNORE, UNLABELLED, Batch, Detections
from detection.visualize import as_rgb, draw, tinted


class Pictures(Callback):
    """Write ``images/train_batch.jpg`` at the start, and an image at each validation; on rank 0 only.

    The image of a validation is ``images/val_epoch_EPOCH.jpg`` at the end of an epoch, else
    ``images/val_step_STEP.jpg``.

    Args:
        num: number of samples on each image.
        score_threshold: smallest score of predictions to draw.
    """

    def __init__(self, num: int = 4, score_threshold: float = 0.5) -> None:
        self.num, self.score_threshold = num, score_threshold
        self._folder: Path | None = None
        self._pairs: list[list[Tile]] = []
        self._files: dict[int, str] | None = None
        self._started = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # all ranks must call it
        self._folder = Path(folder) / IMAGES if folder is not None and trainer.is_global_zero else None

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
        categories = _categories(module)
        for i in range(min(self.num - len(self._pairs), len(batch.images))):
            if int(batch.image_ids[i]) == IGNORE:
                continue
            found: Detections = outputs["detections"].image(i)
            keep = found.scores >= self.score_threshold
            found = Detections(*(None if v is None else v[keep] for v in found))  # type: ignore[arg-type]
            image = _tinted(_image(batch, i), *_predicted(batch, outputs["detections"], i, module))
            prediction = _draw(image, found, categories)
            name = self._file_name(trainer, int(batch.image_ids[i]))
            truth = _draw_truth(batch, i, categories, is_panoptic(module))
            self._pairs.append([(f"{name}, ground truth", truth), ("prediction", prediction)])

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._folder is not None and self._pairs and not trainer.sanity_checking:
            title = ", ".join([f"step {trainer.global_step}", *_scores(trainer)])
            _write(self._folder / f"{name_of(trainer)}.jpg", self._pairs, title)

    def _file_name(self, trainer: Trainer, image_id: int) -> str:
        """Return the file name of an image, or its ID if the data set is not the toolkit's."""
        if self._files is None:
            annotations = getattr(getattr(trainer.val_dataloaders, "dataset", None), "annotations", None)
            self._files = {}
            if annotations is not None:
                ids = annotations.image_ids.tolist()
                self._files = {id: Path(annotations.file_name(k)).name for k, id in enumerate(ids)}
        return shown(self._files.get(image_id, f"image {image_id}"))


def name_of(trainer: Trainer) -> str:
    """Return the name of a validation: ``val_epoch_012`` at the end of an epoch, else ``val_step_000700``."""
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        return f"val_epoch_{trainer.current_epoch + 1:03d}"
    return f"val_step_{trainer.global_step:06d}"


def draw_batch(path: Path, module: LightningModule, batch: Batch, num: int) -> None:
    """Write the first ``num`` images of a batch with their objects."""
    categories = _categories(module)
    cells = [
        [(f"image {int(batch.image_ids[i])}", _draw_truth(batch, i, categories, is_panoptic(module)))]
        for i in range(min(num, len(batch.images)))
    ]
    _write(path, cells)


def _categories(module: LightningModule) -> Categories:
    return module.model.categories  # type: ignore[union-attr,return-value]


def _image(batch: Batch, i: int) -> np.ndarray:
    """Return the ``i``-th image without its padding: (H, W, 3) uint8."""
    height, width = batch.sizes[i].tolist()
    return as_rgb(batch.images[i, :, :height, :width].permute(1, 2, 0).cpu().numpy())


def _predicted(batch: Batch, detections: Detections, i: int, module: LightningModule) -> tuple[np.ndarray | None, bool]:
    """Return the predicted semantic map of an image on its canvas, if there is one, and whether it is of stuff."""
    if detections.semantic is None:
        return None, False
    return predicted_map(batch._replace(original_sizes=batch.sizes), detections, i), is_panoptic(module)


def is_panoptic(module: LightningModule) -> bool:
    """Return whether the first semantic class stands for all objects."""
    return isinstance(module.model, PanopticFPN)


def _tinted(image: np.ndarray, semantic: np.ndarray | None, stuff: bool) -> np.ndarray:
    """Return an image with the colours of a semantic map; of stuff, the objects keep their colours."""
    if semantic is None:
        return image
    return tinted(image, np.where(semantic == 0, UNLABELLED, semantic) if stuff else semantic, 0.35)


def _draw_truth(batch: Batch, i: int, categories: Categories, stuff: bool = False) -> np.ndarray:
    if batch.targets is None:
        return _image(batch, i)
    targets = batch.targets
    image = _image(batch, i)
    if targets.semantic is not None:
        image = _tinted(image, targets.semantic[i, : image.shape[0], : image.shape[1]].cpu().numpy(), stuff)
    keep = (targets.labels[i] != IGNORE) & ~targets.crowd[i]
    masks = None if targets.masks is None else (targets.masks[i][keep] == 1).float()
    keypoints = None if targets.keypoints is None else targets.keypoints[i][keep]
    truth = Detections(targets.boxes[i][keep], torch.empty(0), targets.labels[i][keep], masks, keypoints=keypoints)
    return _draw(image, truth, categories, scored=False)


def _draw(image: np.ndarray, found: Detections, categories: Categories, scored: bool = True) -> np.ndarray:
    height, width = image.shape[:2]
    boxes, scores = found.boxes.float().cpu(), found.scores.float().cpu().numpy() if scored else None
    rles = None if found.masks is None else encode_masks(found.masks.float().cpu(), boxes, height, width)
    points = None if found.keypoints is None else found.keypoints.double().cpu().numpy()
    labels, names, skeletons = found.labels.cpu().numpy(), categories.names, categories.skeletons
    return draw(image, boxes.numpy(), labels, scores, rles, names, keypoints=points, skeletons=skeletons)


def _scores(trainer: Trainer) -> list[str]:
    """Return the APs of the validation as text, in percent."""
    found = [
        (kind, trainer.callback_metrics.get(f"val/{name}/AP"))
        for kind, name in (("box", "bbox"), ("mask", "segm"), ("keypoint", "keypoints"))
    ]
    return [f"{kind} AP {percent(float(AP))}" for kind, AP in found if AP is not None]


def _write(path: Path, cells: list[list[Tile]], title: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.ascontiguousarray(sheet(cells, title)[..., ::-1])
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    with replacing(path) as file:
        file.write(encoded.tobytes())

"""Lightning's data module for COCO-format data: hooks that read annotations and build the loaders of each stage."""

import inspect
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader

from detection.categories import Categories
from detection.coco.annotations import Annotations
from detection.convert.pretrained import load_pretrained
from detection.data.dataset import CocoDataset
from detection.data.samplers import TrainBatchSampler
from detection.engine.data_config import DataConfig, Split
from detection.engine.data_ingredients import ingredients_of
from detection.engine.errors import user_input
from detection.engine.loaders import Loaders
from detection.engine.loading import explain_worker
from detection.engine.place import Place
from detection.engine.resumable_data import ResumableData
from detection.engine.splits import Splits
from detection.provenance import checksum
from detection.wording import plural

__all__ = ["CocoDataModule", "DataConfig", "Split"]

COMPILED_CANVASES = 8
"""Number of canvas sizes that are compiled for evaluation. 100 COCO images have 20 sizes; 8 of them cover 80 images."""


class CocoDataModule(ResumableData):
    """Provide images and annotations in COCO's format to a trainer.

    Example:
        >>> data = CocoDataModule("datasets/coco", short_side=640, batch_size=8)
        >>> data.config.batch_size
        8
    """

    __signature__ = inspect.signature(DataConfig)

    def __init__(self, *settings: Any, **named: Any) -> None:
        """Check and store the settings; :meth:`setup` reads the files.

        Args:
            settings, named: arguments of :class:`~detection.engine.data_config.DataConfig`.

        Raises:
            InputError: a setting is invalid.
        """
        super().__init__()
        self.config = DataConfig(*settings, **named)
        with user_input():
            self.config.check()
        self.splits = Splits(self.config)
        self.loaders = Loaders(self.splits)
        self.place = Place(self.config.batch_size)
        self.detector: str | None = None
        """Checkpoint or name of a detector; prediction uses its classes if the annotation file lists none."""

    @property
    def batch_size(self) -> int:
        """Images per optimizer step over all processes; Lightning's ``BatchSizeFinder`` reads and sets it."""
        return self.config.batch_size

    @batch_size.setter
    def batch_size(self, images: int) -> None:
        self.config = replace(self.config, batch_size=images)
        self.splits.config = self.loaders.config = self.config
        self.place.batch_size = images

    @property
    def annotations(self) -> dict[str, Annotations]:
        """Annotations by split, of the splits that have been read."""
        return self.splits.annotations

    @property
    def categories(self) -> Categories:
        """Classes, which are the same in all splits in use."""
        return self.splits.categories

    @property
    def semantic_categories(self) -> Categories:
        """Semantic classes, which are the same in all splits in use; for a detector with a semantic head."""
        return self.splits.semantic_categories

    def setup(self, stage: str) -> None:
        """Read and check the annotations that a stage needs.

        Raises:
            InputError: a folder or file is missing, annotations are invalid, or the classes of the splits differ; the
                message names a remedy.
        """
        fitted = ("train", "val") if self._validates else ("train",)
        needed = {"fit": fitted, "validate": ("val",), "test": ("test",), "predict": (self.splits.predicted,)}[stage]
        known = self._detector_classes if stage == "predict" else None
        with user_input():
            self.splits.read(needed, known, self.trainer is not None and self.trainer.is_global_zero)
            self.splits.check_same_classes()
            if stage == "fit":
                self.splits.check_training()
        if stage == "fit":
            self._check_batches()

    def open(self, split: str) -> CocoDataset:
        """Return the data set of a split as training or evaluation uses it, without a trainer.

        Raises:
            InputError: a folder or file is missing, or annotations are invalid.
        """
        with user_input():
            self.splits.read([split])
        return self.splits.dataset(split)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loaders.train(self._share, self._next_epoch, self._calm_from)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        if self.config.val is None:
            return []
        if "val" not in self.annotations:  # Lightning's LearningRateFinder validates even with limit_val_batches 0
            self.open("val")
        return self.loaders.evaluation("val", self._share)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loaders.evaluation("test", self._share)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.loaders.evaluation(self.splits.predicted, self._share)

    def teardown(self, stage: str) -> None:
        """Print which training images the loader replaced because it could not read them."""
        data = self.splits.datasets.get("train")
        if data is not None and stage == "fit" and (bad := data.bad_images()):
            some = ", ".join(str(data.path(i)) for i in bad[:5])
            print(f"Replaced {plural(len(bad), 'unreadable image')} by the next readable one: {some}")

    def on_exception(self, exception: BaseException) -> None:
        """Add to an error the files that a worker was reading when it died or hung."""
        if place := explain_worker(exception, list(self.splits.datasets.values())):
            exception.add_note(place)

    def ground_truth(self, stage: str) -> Mapping[str, Any]:
        """Return the COCO dict of the ground truth for ``val``, ``test`` or ``predict``."""
        return self.annotations[self.splits.of_stage(stage)].to_coco()

    def record(self) -> Mapping[str, Any]:
        """Return, by split, the annotation file with its checksum and its numbers of images, objects and classes."""
        return {
            split: {
                "annotations": str(annotations.path),
                "sha256": checksum(annotations.path),
                "images": len(annotations),
                "objects": annotations.num_objects - annotations.num_crowds,
                "crowds": annotations.num_crowds,
                "classes": len(self.categories),
            }
            for split, annotations in self.annotations.items()
        }

    def ingredients(self) -> dict[str, Any]:
        """Return the settings that change the images of a training, and descriptions of its images."""
        return ingredients_of(self.config, self.annotations)

    def common_shapes(self, stage: str) -> set[tuple[int, int, int]]:
        """Return (B, H, W) of full batches for the :data:`COMPILED_CANVASES` most frequent sizes of a stage's images.

        Args:
            stage: ``val``, ``test`` or ``predict``.
        """
        canvases = Counter(map(tuple, self.loaders.canvases(self.splits.of_stage(stage)).tolist()))
        size = self.config.eval_batch_size
        return {(size, height, width) for (height, width), _ in canvases.most_common(COMPILED_CANVASES)}

    @property
    def _calm_from(self) -> int | None:
        """The first epoch without strong augmentation; None if there is no such epoch."""
        if not self.config.is_strong or self.config.strong_until == 1:
            return None
        trainer = self._trainer
        ends = [float(trainer.max_epochs)] if trainer.max_epochs is not None and trainer.max_epochs >= 0 else []
        ends += [trainer.max_steps / self.steps_per_epoch] if trainer.max_steps >= 0 else []
        # The rounding of floating point must not add an epoch.
        return math.ceil(self.config.strong_until * min(ends) - 1e-6) if ends else None

    @property
    def _validates(self) -> bool:
        return self.config.val is not None and (self.trainer is None or self.trainer.limit_val_batches != 0)

    def _detector_classes(self) -> Categories:
        """Return the classes of the detector, for an annotation file without categories."""
        found = load_pretrained(self.detector).categories if self.detector else None
        if found is None:
            path = self.splits.paths(self.splits.predicted).annotations
            raise ValueError(f"{path}: has no list 'categories', and the detector names no classes; add the list")
        return found

    def _train_sampler(self) -> TrainBatchSampler:
        return self.loaders.train_sampler(self._share)

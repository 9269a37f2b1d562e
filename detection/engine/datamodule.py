"""COCO-format data in Lightning's hands: hooks that give a stage its images, in batches and in order."""

import inspect
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from detection.coco.annotations import Annotations
from detection.convert.pretrained import load_pretrained
from detection.data.dataset import CocoDataset
from detection.data.samplers import TrainBatchSampler
from detection.engine.data_config import DataConfig, Split
from detection.engine.errors import InputError, user_input
from detection.engine.lightning_mends.checkpoints import NoClassLoading
from detection.engine.loaders import Loaders, Share
from detection.engine.loading import explain_worker
from detection.engine.place import Place
from detection.engine.splits import Splits
from detection.structures import Categories
from detection.wording import plural

__all__ = ["CocoDataModule", "DataConfig", "Split"]

COMPILED_CANVASES = 8
"""Canvases of evaluation that are compiled: of 100 COCO images, which have 20, four fifths are on one of these."""


class CocoDataModule(NoClassLoading, LightningDataModule):
    """Images and annotations in COCO's format.

    Example:
        >>> data = CocoDataModule("datasets/coco", short_side=640, batch_size=8)
        >>> data.config.batch_size
        8
    """

    __signature__ = inspect.signature(DataConfig)

    def __init__(self, *settings: Any, **named: Any) -> None:
        """Take the settings; :meth:`setup` reads the files.

        Args:
            settings, named: those of :class:`~detection.engine.data_config.DataConfig`.

        Raises:
            InputError: a setting that cannot be.
        """
        super().__init__()
        self.config = DataConfig(*settings, **named)
        with user_input():
            self.config.check()
        self.splits = Splits(self.config)
        self.loaders = Loaders(self.splits)
        self.place = Place(self.config.batch_size)
        self.detector: str | None = None
        """A checkpoint or a name, whose classes count where a file to predict has none."""

    @property
    def annotations(self) -> dict[str, Annotations]:
        """The annotations that have been read, by split."""
        return self.splits.annotations

    @property
    def categories(self) -> Categories:
        """The classes; those of all splits in use are the same."""
        return self.splits.categories

    @property
    def device_batch(self) -> int:
        """Images per device and batch in training.

        Raises:
            InputError: the images of a step cannot be divided among devices and accumulated batches.
        """
        return self._share.images(self.config.batch_size)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of each device in training."""
        limit, batches = self._trainer.limit_train_batches, len(self._train_sampler())
        return min(batches, limit) if isinstance(limit, int) else int(batches * limit)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps."""
        return max(1, math.ceil(self.batches_per_epoch / self._trainer.accumulate_grad_batches))

    @property
    def epoch_is_over(self) -> bool:
        """Whether the epoch that was loaded last has ended, as it has between two epochs and after the last."""
        return self.place.is_over(self._trainer.current_epoch)

    @property
    def batches_done(self) -> int:
        """Batches of the resumed epoch that count as done, in batches of this run."""
        return self.place.batches_done(self._train_sampler())

    def setup(self, stage: str) -> None:
        """Read and check the annotations that a stage needs.

        Raises:
            InputError: a folder or file that is not there, annotations that cannot be used, or splits whose classes
                differ; with the remedy.
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
        """A split as training or evaluation sees it, without a trainer.

        Raises:
            InputError: as :meth:`setup`.
        """
        with user_input():
            self.splits.read([split])
        return self.splits.dataset(split)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loaders.train(self._share, self._next_epoch, self._calm_from)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loaders.evaluation("val", self._share)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loaders.evaluation("test", self._share)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.loaders.evaluation(self.splits.predicted, self._share)

    def teardown(self, stage: str) -> None:
        """Print which images were replaced because they could not be read."""
        data = self.splits.datasets.get("train")
        if data is not None and stage == "fit" and (bad := data.bad_images()):
            some = ", ".join(str(data.path(i)) for i in bad[:5])
            print(f"{plural(len(bad), 'image')} could not be read: replaced by the next: {some}")

    def on_exception(self, exception: BaseException) -> None:
        """Note what a worker that died or hung was reading."""
        if place := explain_worker(exception, list(self.splits.datasets.values())):
            exception.add_note(place)

    def ground_truth(self, stage: str) -> Mapping[str, Any]:
        """The COCO dict against which the detections of ``val``, ``test`` or ``predict`` are scored."""
        return self.annotations[self.splits.of_stage(stage)].to_coco()

    def common_shapes(self, stage: str) -> set[tuple[int, int, int]]:
        """B, H, W of full batches on the :data:`COMPILED_CANVASES` that most images of ``val``, ``test`` or ``predict``
        have."""
        canvases = Counter(map(tuple, self.loaders.canvases(self.splits.of_stage(stage)).tolist()))
        size = self.config.eval_batch_size
        return {(size, height, width) for (height, width), _ in canvases.most_common(COMPILED_CANVASES)}

    def state_dict(self) -> dict[str, Any]:
        """The place of the training: the epoch, its images that are done, and how many make a step."""
        batches = self._trainer.fit_loop.batch_idx + 1
        return self.place.state(self._trainer.current_epoch, batches, self._train_sampler())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the next image that was not seen."""
        self.place.resume(state_dict)

    @property
    def _trainer(self) -> Trainer:
        """The trainer, which only :meth:`open` does without."""
        assert self.trainer is not None
        return self.trainer

    @property
    def _share(self) -> Share:
        trainer = self._trainer
        pins = trainer.strategy.root_device.type == "cuda"
        return Share(trainer.world_size, trainer.global_rank, trainer.accumulate_grad_batches, pins)

    @property
    def _calm_from(self) -> int | None:
        """The first epoch without the strong augmentation; None where that never ends."""
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

    def _check_batches(self) -> None:
        """Reject a batch that cannot be divided among the devices, and a validation interval longer than an epoch."""
        every, batches = self._trainer.val_check_interval, self.batches_per_epoch
        within_an_epoch = self._trainer.check_val_every_n_epoch is not None and self._trainer.limit_val_batches
        if within_an_epoch and isinstance(every, int) and every > batches:
            raise InputError(
                f"trainer.val_check_interval {every} is more than the batches of an epoch, {batches}; to count on over "
                "epochs, set trainer.check_val_every_n_epoch null"
            )

    def _detector_classes(self) -> Categories:
        """The classes of the detector that predicts, for a file that lists none."""
        found = load_pretrained(self.detector).categories if self.detector else None
        if found is None:
            path = self.splits.paths(self.splits.predicted).annotations
            raise ValueError(f"{path}: has no list 'categories', and the detector names no classes; add the list")
        return found

    def _next_epoch(self) -> tuple[int, int, int]:
        return self.place.next_epoch(self._trainer.current_epoch, self._train_sampler(), self.batches_per_epoch)

    def _train_sampler(self) -> TrainBatchSampler:
        return self.loaders.train_sampler(self._share)

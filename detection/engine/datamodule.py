"""COCO-format data in Lightning's hands: which images, in which order, on which device."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from detection.coco.annotations import Annotations, check_same_categories, load_annotations
from detection.coco.crowds import check_learnable, described
from detection.convert.pretrained import load_pretrained
from detection.data.collate import collate, collate_unresized, own_canvases
from detection.data.dataset import CocoDataset, Reading, Together
from detection.data.image import MAX_PIXELS
from detection.data.presence import check_images
from detection.data.samplers import EvalBatchSampler, TrainBatchSampler
from detection.data.transforms import Albumentations, HorizontalFlip, RandomCrop, Resize, Transform
from detection.engine.errors import InputError, user_input
from detection.engine.loading import (
    EpochLoader,
    allow_open_files,
    batch_bytes,
    begin_training_worker,
    explain_worker,
    few_canvases_for,
    largest_canvas,
    workers_that_fit,
)
from detection.engine.resuming import Restoring
from detection.evaluation.limits import COCO_LIMITS, limits_up_to
from detection.home import with_home
from detection.structures import Categories, Depth, ResizeMethod
from detection.wording import plural

WORKER_TIMEOUT = 600
"""Seconds after which a worker that delivers nothing counts as hung."""

COMMON = 8
"""Canvases of evaluation that are compiled: of 100 COCO images, which have 20, four fifths are on one of these."""


@dataclass(frozen=True)
class Split:
    """Images and what is annotated on them."""

    images: str
    """Folder of the images, below root."""
    annotations: str
    """COCO annotation file, below root."""


class CocoDataModule(Restoring, LightningDataModule):
    """Images and annotations in COCO's format."""

    def __init__(
        self,
        root: str = "datasets/coco",
        train: Split = Split("train2017", "annotations/instances_train2017.json"),
        val: Split | None = Split("val2017", "annotations/instances_val2017.json"),
        test: Split | None = None,
        short_side: int | list[int] = 800,
        long_side: int = 1333,
        resize: ResizeMethod = "opencv",
        flip: float = 0.5,
        crop: tuple[int, int] | None = None,
        augment: list[object] | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 1,
        workers: int = 4,
        masks: bool = False,
        seed: int = 0,
        few_canvases: bool = False,
        max_pixels: int = MAX_PIXELS,
        allow_outside_root: bool = False,
        bad_images: int = 0,
        channels: int = 3,
        depth: Depth = 8,
        resize_on_device: bool = False,
        max_detections: int = COCO_LIMITS[-1],
    ) -> None:
        """Take the settings; files are read in :meth:`setup`.

        Args:
            root: Folder that the paths of the splits begin at.
            train: Images to learn from.
            val: Images to validate on; null trains without validation, so that last.ckpt is the result.
            test: Images of `rcnn test` and `rcnn predict`; predict takes those of val if there are none.
            short_side: Images are resized until their shorter side has so many pixels; of several, training draws one
                for each image and evaluation takes the largest.
            long_side: The longer side has at most so many.
            resize: How: opencv; or, for weights from elsewhere, bilinear (mmdetection), pillow (detectron2) or tensor
                (torchvision).
            flip: Probability that a training image is mirrored.
            crop: Height and width of a window that training images are cut to before they are resized.
            augment: Albumentations transforms of the training images, by class_path and init_args.
            batch_size: Images per optimizer step, over all devices and accumulated batches.
            eval_batch_size: Images per device and batch in evaluation; more than one is faster on a GPU. The batches
                are the same for any number of devices.
            workers: Processes per device that load images.
            masks: Whether the detector has a mask head.
            seed: Of the order of the images and of the augmentations.
            few_canvases: Pad training batches to one of a few sizes, so that a compiled detector meets no other.
            max_pixels: Images that claim more pixels are refused before they are decoded.
            allow_outside_root: Follow file names that lead out of the image folder.
            bad_images: So many training images may be unreadable: the next one takes the place of such a one.
            channels: Of an image; follows model.backbone.in_channels. One is gray, three are RGB; others must be what
                the files have (PNG, .npy, TIFF).
            depth: Bits per channel that the model sees, 8 or 16.
            resize_on_device: Leave the resizing and mirroring of training images to the device, where the workers are
                the limit.
            max_detections: Detections of a class in an image that evaluation scores, 100 as COCO. Recall is named after
                it, as AR300. What the detector finds at all is model.box_head.detections.
        """
        super().__init__()
        self.root, self.splits = Path(with_home(root)), {"train": train, "val": val, "test": test}
        sides = [short_side] if isinstance(short_side, int) else list(short_side)
        self.short_sides, self.long_side, self.resize = sides, long_side, resize
        self.flip, self.crop, self.augment = flip, crop, list(augment or [])
        self.batch_size, self.eval_batch_size, self.workers = batch_size, eval_batch_size, workers
        self.masks, self.seed = masks, seed
        self.canvases = few_canvases_for(max(sides, default=0), long_side) if few_canvases else None
        self.reading = Reading(max_pixels, allow_outside_root, bad_images, channels, depth)
        self.resize_on_device = resize_on_device
        with user_input():
            self.max_detections = limits_up_to(max_detections)
        self.annotations: dict[str, Annotations] = {}
        self.detector: str | None = None  # a checkpoint or a name, whose classes count where a file to predict has none
        self._resume: dict[str, int] | None = None
        self._loaded_epoch: int | None = None
        self._datasets: dict[str, CocoDataset] = {}
        if not sides or min(sides) < 1 or max(sides) > long_side:
            raise InputError(f"data.short_side {short_side} must be above 0 and not above data.long_side {long_side}")
        if resize_on_device and resize != "opencv":
            raise InputError(f"data.resize_on_device resizes as opencv does; data.resize is {resize}")
        if not all(callable(transform) for transform in self.augment):
            raise InputError("data.augment takes transforms, each as {class_path: ..., init_args: {...}}")
        if not 0 <= flip <= 1:
            raise InputError(f"data.flip {flip} must be a probability, from 0 to 1")
        if crop is not None and min(crop) < 1:
            raise InputError(f"data.crop {list(crop)} must be a height and a width of at least 1 pixel")
        if bad_images < 0 or max_pixels < 1:
            raise InputError(
                f"data.bad_images {bad_images} must be at least 0, data.max_pixels {max_pixels} at least 1"
            )
        if min(batch_size, eval_batch_size) < 1:
            raise InputError(f"data.batch_size {batch_size} and eval_batch_size {eval_batch_size} must be at least 1")

    @property
    def categories(self) -> Categories:
        """The classes; those of all splits in use are the same."""
        return next(iter(self.annotations.values())).categories

    @property
    def test_size(self) -> tuple[int, int]:
        """Shortest and longest side of images in evaluation."""
        return max(self.short_sides), self.long_side

    @property
    def device_batch(self) -> int:
        """Images per device and batch in training."""
        trainer: Any = self.trainer
        parts = trainer.world_size * trainer.accumulate_grad_batches
        if self.batch_size % parts:
            fitting = [
                size for size in (self.batch_size // parts * parts, -(-self.batch_size // parts) * parts) if size
            ]
            raise InputError(
                f"data.batch_size {self.batch_size} cannot be shared out over {plural(trainer.world_size, 'device')} x "
                f"{plural(trainer.accumulate_grad_batches, 'accumulated batch')}; try {' or '.join(map(str, fitting))}"
            )
        return self.batch_size // parts

    @property
    def batches_per_epoch(self) -> int:
        """Batches of each device in training."""
        trainer: Any = self.trainer
        limit, batches = trainer.limit_train_batches, len(self._train_sampler())
        return min(batches, limit) if isinstance(limit, int) else int(batches * limit)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps."""
        trainer: Any = self.trainer
        return max(1, math.ceil(self.batches_per_epoch / trainer.accumulate_grad_batches))

    @property
    def epoch_is_over(self) -> bool:
        """Whether the epoch that was loaded last has ended, as it has between two epochs and after the last."""
        trainer: Any = self.trainer
        return self._loaded_epoch is not None and trainer.current_epoch > self._loaded_epoch

    def setup(self, stage: str) -> None:
        """Read and check the annotations that a stage needs.

        Raises:
            InputError: a folder or file that is not there, annotations that cannot be used, or splits whose classes
                differ; with the remedy.
        """
        fitted = ("train", "val") if self._validates else ("train",)
        needed = {"fit": fitted, "validate": ("val",), "test": ("test",), "predict": (self._predicted,)}
        with user_input():
            for name in needed[stage]:
                if name not in self.annotations:
                    self.annotations[name] = self._read(name, self._detector_classes if stage == "predict" else None)
            first, *others = self.annotations.values()
            for other in others:
                check_same_categories(first, other)
            if stage == "fit":
                check_learnable(self.annotations["train"])
            if stage == "fit" and self.masks and not self.annotations["train"].has_masks:
                raise ValueError(
                    f"{self.annotations['train'].path}: has no mask to learn from; without masks it is a Faster R-CNN: "
                    "--model.mask_head null"
                )
        if stage == "fit":
            self._check_batches()

    def _check_batches(self) -> None:
        """Refuse a batch that cannot be shared out, and a validation that Lightning would refuse with a traceback."""
        trainer: Any = self.trainer
        every, batches = trainer.val_check_interval, self.batches_per_epoch
        within_an_epoch = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches
        if within_an_epoch and isinstance(every, int) and every > batches:
            raise InputError(
                f"trainer.val_check_interval {every} is more than the batches of an epoch, {batches}; to count on over "
                "epochs, set trainer.check_val_every_n_epoch null"
            )

    def open(self, split: str) -> CocoDataset:
        """A split as training or evaluation sees it, without a trainer.

        Raises:
            InputError: as :meth:`setup`.
        """
        with user_input():
            if split not in self.annotations:
                self.annotations[split] = self._read(split)
        return self._dataset(split)

    def train_dataloader(self) -> DataLoader[Any]:
        data, options = self._dataset("train", self.resize_on_device), self._loading("train")
        together = partial(collate_unresized if self.resize_on_device else collate, canvases=self.canvases)
        return EpochLoader(data, self._train_sampler(), self._next_epoch, collate_fn=together, **options)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._eval_loader(self._predicted)

    def teardown(self, stage: str) -> None:
        """Tell which images were replaced because they could not be read."""
        data = self._datasets.get("train")
        if data is not None and stage == "fit" and (bad := data.bad_images()):
            some = ", ".join(str(data.path(i)) for i in bad[:5])
            print(f"{plural(len(bad), 'image')} could not be read: replaced by the next: {some}")

    def on_exception(self, exception: BaseException) -> None:
        """Note what a worker that died or hung was reading."""
        if place := explain_worker(exception, list(self._datasets.values())):
            exception.add_note(place)

    def ground_truth(self, stage: str) -> Mapping[str, Any]:
        """What the detections of ``val``, ``test`` or ``predict`` are scored against: a COCO dict."""
        return self.annotations[self._split_of(stage)].to_coco()

    def common_shapes(self, stage: str) -> set[tuple[int, int, int]]:
        """B, H, W of full batches on the :data:`COMMON` canvases that most images of ``val``, ``test`` or ``predict``
        have."""
        canvases = Counter(map(tuple, self._own_canvases(self._split_of(stage)).tolist()))
        return {(self.eval_batch_size, height, width) for (height, width), _ in canvases.most_common(COMMON)}

    def state_dict(self) -> dict[str, Any]:
        """Where training is: the epoch, the images of it that are done, and how many make a step."""
        trainer: Any = self.trainer
        epoch = trainer.current_epoch - self.epoch_is_over
        done = (trainer.fit_loop.batch_idx + 1) * self.device_batch * trainer.world_size
        if self._resume is not None and epoch == self._resume["epoch"]:
            # An epoch that was begun with another batch is counted on from there.
            sampler = self._train_sampler()
            done += self._resume["images"] - self.batches_done(sampler) * self.device_batch * trainer.world_size
        return {
            "epoch": epoch,
            "images": done,
            "grouped": self._grouped(epoch),
            "step_images": self.batch_size,
            "accumulated": trainer.accumulate_grad_batches,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the next image that was not seen."""
        self._resume = dict(state_dict)

    def begin_epoch(self, epoch: int) -> None:
        """Go on at the first image of an epoch, whatever has been seen of it."""
        if self._resume is not None:
            self._resume |= {"epoch": epoch, "images": 0, "grouped": self.batch_size}

    def batches_done(self, sampler: TrainBatchSampler | None = None) -> int:
        """Batches of the epoch that goes on that count as done, in batches of this run."""
        sampler = sampler or self._train_sampler()
        if self._resume is None:
            return 0
        left = sampler.left(self._resume["epoch"], self._resume["images"], self._resume["grouped"])
        return max(0, len(sampler) - left)

    def _grouped(self, epoch: int) -> int:
        """Images per step by which the order of an epoch was made."""
        if self._resume is not None and epoch == self._resume["epoch"]:
            return self._resume["grouped"]
        return self.batch_size

    @property
    def _predicted(self) -> str:
        return "val" if self.splits["test"] is None and self.splits["val"] is not None else "test"

    @property
    def _validates(self) -> bool:
        return self.splits["val"] is not None and (self.trainer is None or self.trainer.limit_val_batches != 0)

    def _settings(self, name: str) -> Split:
        split = self.splits[name]
        if split is None:
            given = "'{images: FOLDER, annotations: FILE}'"
            raise InputError(f"data.{name} is not set; give its images and annotations: --data.{name} {given}")
        return split

    def _detector_classes(self) -> Categories:
        """Those of the detector that predicts, for a file that lists none."""
        found = load_pretrained(self.detector).categories if self.detector else None
        if found is None:
            path = self.root / self._settings(self._predicted).annotations
            raise ValueError(f"{path}: has no list 'categories', and the detector names no classes; add the list")
        return found

    def _read(self, name: str, known: Callable[[], Categories] | None = None) -> Annotations:
        split, trainer = self._settings(name), self.trainer
        path, folder = self.root / with_home(split.annotations), self.root / with_home(split.images)
        if not path.is_file():
            raise FileNotFoundError(f"no annotations {path}; set data.root or data.{name}.annotations")
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder of images {folder}; set data.root or data.{name}.images")
        annotations = load_annotations(path, self.masks, self.reading.max_pixels, known)
        check_images(CocoDataset(annotations, folder, reading=self.reading), allowed=self._allowed_bad(name))
        if trainer is not None and trainer.is_global_zero:
            print("\n".join(described(name, annotations)))
        return annotations

    def _next_epoch(self) -> tuple[int, int, int]:
        """The epoch that begins or goes on now, how many of its images to leave out, and how they are grouped."""
        trainer: Any = self.trainer
        place = trainer.current_epoch, 0, self.batch_size
        if self._resume is not None:
            epoch, images, grouped = (self._resume[key] for key in ("epoch", "images", "grouped"))
            if self.batches_done() >= self.batches_per_epoch:
                epoch, images, grouped = epoch + 1, 0, self.batch_size
            if trainer.current_epoch <= epoch:
                place = epoch, images, grouped
        self._loaded_epoch = place[0]
        return place

    def _train_sampler(self) -> TrainBatchSampler:
        trainer: Any = self.trainer
        sizes = self.annotations["train"].sizes
        return TrainBatchSampler(
            sizes,
            self.device_batch,
            self.seed,
            trainer.global_rank,
            trainer.world_size,
            accumulated=trainer.accumulate_grad_batches,
        )

    def _eval_loader(self, split: str) -> DataLoader[Any]:
        trainer: Any = self.trainer
        dataset = self._dataset(split)
        canvases = self._own_canvases(split)
        batches = EvalBatchSampler(canvases, self.eval_batch_size, trainer.global_rank, trainer.world_size)
        # As single items: Lightning wraps the batch sampler of prediction loaders and knows only torch's own.
        options = {"batch_size": None, "collate_fn": collate, **self._loading(split)}
        return DataLoader(Together(dataset), sampler=batches, **options)

    def _split_of(self, stage: str) -> str:
        return self._predicted if stage == "predict" else stage

    def _own_canvases(self, split: str) -> np.ndarray:
        return own_canvases(self.annotations[split].sizes, Resize(*self.test_size, self.resize))

    def _dataset(self, split: str, resize_later: bool = False) -> CocoDataset:
        transforms: list[Transform] = []
        if split == "train":
            transforms += [RandomCrop(*self.crop)] if self.crop else []
            transforms += [Albumentations(self.augment)] if self.augment else []
            transforms += [HorizontalFlip(self.flip, resize_later)] if self.flip else []
            transforms.append(Resize(self.short_sides, self.long_side, self.resize, resize_later))
        else:
            transforms.append(Resize(*self.test_size, self.resize))
        folder = self.root / with_home(self._settings(split).images)
        draft = split == "train"
        reading = replace(self.reading, bad_images=self._allowed_bad(split))
        data = CocoDataset(self.annotations[split], folder, transforms, self.masks, self.seed, 112, reading, draft)
        self._datasets[split] = data
        return data

    def _workers(self, split: str) -> int:
        """As many as were asked for, if their batches fit into the shared memory."""
        annotations = self.annotations[split]
        batch = self.device_batch if split == "train" else self.eval_batch_size
        sizes = annotations.sizes
        if self.crop and split == "train":
            sizes = np.minimum(sizes, self.crop)
        canvas = largest_canvas(sizes, *self.test_size)
        if self.resize_on_device and split == "train":
            canvas = tuple(np.maximum(canvas, sizes.max(axis=0, initial=1)).tolist())
        most = int(annotations.counts().max(initial=0))
        allow_open_files()
        pixel = self.reading.channels * self.reading.depth // 8
        return workers_that_fit(self.workers, batch_bytes(batch, canvas, most, self.masks, pixel_bytes=pixel))

    def _allowed_bad(self, split: str) -> int:
        # An evaluation on other images than it says would be worth nothing.
        return self.reading.bad_images if split == "train" else 0

    def _loading(self, split: str) -> dict[str, Any]:
        """What all loaders share."""
        trainer: Any = self.trainer
        workers = self._workers(split)
        return {
            "num_workers": workers,
            "worker_init_fn": partial(begin_training_worker, rank=trainer.global_rank),
            "pin_memory": trainer.strategy.root_device.type == "cuda",
            "timeout": WORKER_TIMEOUT if workers else 0,
        }

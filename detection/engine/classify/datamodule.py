"""Lightning's data modules for labelled images, and for a pretraining without labels.

They read the lists of images, and build the loaders of each stage.
"""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from detection.categories import Categories
from detection.coco.annotations import load_annotations
from detection.data.labelled import LabelledImages, from_coco, from_csv, from_folders, split, with_classes
from detection.data.labelled_dataset import LabelledDataset, collate_labelled
from detection.data.multi_labelled import from_coco_images, from_csv_of_several
from detection.data.repeated import RepeatedBatchSampler
from detection.data.samplers import EvalBatchSampler, TrainBatchSampler
from detection.data.unlabelled import from_folder, without_labels
from detection.engine.classify.data_config import (
    Crops,
    LabelledConfig,
    LabelledSplit,
    UnlabelledConfig,
    UnlabelledSplit,
)
from detection.engine.errors import InputError, user_input
from detection.engine.lightning_mends.loaders import EpochLoader, evaluation_loader
from detection.engine.loaders import WORKER_TIMEOUT, begin_training_worker
from detection.engine.loading import allow_open_files, workers_that_fit
from detection.engine.place import Place
from detection.engine.resumable_data import ResumableData
from detection.home import with_home
from detection.provenance import checksum
from detection.wording import plural

ORDERING = ("root", "workers", "eval_batch_size", "batch_size", "seed", "train", "val", "test")
"""Settings that do not change an image, or whose effect the list of images shows."""


class LabelledDataModule(ResumableData):
    """Provide labelled images to a trainer.

    Example:
        >>> data = LabelledDataModule("datasets/flowers", size=64, resize=72, batch_size=8)
        >>> data.config.batch_size
        8
    """

    __signature__ = inspect.signature(LabelledConfig)

    def __init__(self, *settings: Any, **named: Any) -> None:
        """Check and store the settings; :meth:`setup` reads the lists of images.

        Args:
            settings, named: arguments of :class:`~detection.engine.classify.data_config.LabelledConfig`.

        Raises:
            InputError: a setting is invalid.
        """
        super().__init__()
        self._begin(LabelledConfig(*settings, **named))

    def _begin(self, config: Any) -> None:
        """Check and store the settings."""
        with user_input():
            config.check()
        self.config = config
        self.images: dict[str, LabelledImages] = {}
        """Images by split, of the splits that have been read."""
        self.datasets: dict[str, LabelledDataset] = {}
        self.place = Place(config.batch_size)

    @property
    def categories(self) -> Categories:
        """Classes, which are those of the training images."""
        names = next(iter(self.images.values())).classes
        return Categories(names, tuple(range(len(names))))

    def setup(self, stage: str) -> None:
        """Read and check the lists of images that a stage needs.

        Raises:
            InputError: a folder or file is missing or wrong, or a split has a class that training does not have.
        """
        # The classes are those of training, also in an evaluation.
        wanted = {"fit": ("train", "val"), "validate": ("train", "val"), "test": ("train", "test")}.get(stage)
        if wanted is None:
            raise InputError(f"a classifier has no stage {stage}; run rcnn predict RUN IMAGES")
        first = not self.images
        with user_input():
            self.read(wanted)
        if first and self.trainer is not None and self.trainer.is_global_zero:
            shown = wanted if stage == "fit" else wanted[1:]
            lines = [line for name in shown if name in self.images for line in self.images[name].described(name)]
            crops = self.images["train"].crops is not None
            print("\n".join([*(["The images are crops of the objects, one for each"] if crops else []), *lines]))
        if stage == "fit":
            self._check_batches()

    def read(self, names: tuple[str, ...]) -> None:
        """Read the lists of images of splits, unless they have been read before.

        Raises:
            ValueError: a folder or file is missing or wrong, or a split has a class that training does not have.
        """
        if "train" not in self.images:
            self.images["train"] = self.listed("train", self.config.train)
            if self.config.val is None and self.config.val_fraction:
                self.images["train"], self.images["val"] = self.divided(self.images["train"])
        for name in names:
            given = self.config.split(name)
            if name not in self.images and given is not None:
                self.images[name] = with_classes(self.listed(name, given), self.images["train"].classes)
        if "test" in names and self.config.test is None:
            raise ValueError("data.test is not set; give its images: --data.test '{images: FOLDER}'")

    def train_dataloader(self) -> DataLoader[Any]:
        data, sampler = self._dataset("train"), self._train_sampler()
        options = self._options(self.device_batch)
        return EpochLoader(data, sampler, self._next_epoch, collate_fn=collate_labelled, **options)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._evaluation("test")

    def teardown(self, stage: str) -> None:
        """Print which training images the loader replaced because it could not read them."""
        data = self.datasets.get("train")
        if data is not None and stage == "fit" and (bad := data.bad_images()):
            some = ", ".join(str(data.path(i)) for i in bad[:5])
            print(f"Replaced {plural(len(bad), 'unreadable image')} by the next readable one: {some}")

    def record(self) -> Mapping[str, Any]:
        """Return, by split, the folder or file with the labels, and its numbers, for ``run.json``."""
        return {
            name: {
                "annotations": str(images.source),
                "sha256": checksum(images.source) if images.source.is_file() else None,
                "images": len(images),
                **({"objects": len(images), "classes": len(images.classes)} if images.classes else {}),
            }
            for name, images in self.images.items()
        }

    def ingredients(self) -> dict[str, Any]:
        """Return the settings that change the images of a training, and descriptions of its images."""
        found: dict[str, Any] = {"seed_everything": self.config.seed}
        for name in ("train", "val"):
            if name in self.images:
                found |= {f"data.{name}.{key}": value for key, value in _described(self.images[name]).items()}
        settings = {key: value for key, value in asdict(self.config).items() if key not in ORDERING}
        return found | {f"data.{key}": value for key, value in settings.items()}

    def divided(self, images: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
        """Return the images for training and those held out for validation.

        Raises:
            ValueError: there are none for validation.
        """
        seed, fraction = self.config.seed, self.config.val_fraction
        train, val = split(images, fraction, seed)
        if not len(val):
            raise ValueError(
                f"data.val_fraction {fraction} of {plural(len(images), 'image')} leaves none for "
                "validation; add images, or set data.val_fraction 0"
            )
        return train, val

    def listed(self, name: str, given: LabelledSplit) -> LabelledImages:
        """Return all images of a split.

        Args:
            name: name of the split, for messages.
            given: its images and labels.

        Raises:
            ValueError: a folder or file is missing or wrong.
        """
        root = Path(with_home(self.config.root))
        folder, listed = root / with_home(given.images), root / with_home(given.annotations)
        several = self.config.multi_label
        if not given.annotations:
            if several:
                raise ValueError(
                    f"data.multi_label: an image in a folder of its class has one class; list the images of {folder} "
                    "with their classes in a CSV file"
                )
            return from_folders(folder)
        if not listed.is_file():
            raise ValueError(f"data.{name}: no file {listed}; set data.root or data.{name}.annotations")
        if not folder.is_dir():
            raise ValueError(f"data.{name}: no folder of images {folder}; set data.root or data.{name}.images")
        if listed.suffix.lower() == ".csv":
            return from_csv_of_several(listed, folder, self.config.separator) if several else from_csv(listed, folder)
        annotations, crops = load_annotations(listed, max_pixels=self.config.max_pixels), self.config.crops
        if several:
            return from_coco_images(annotations, folder)
        return from_coco(annotations, folder, crops.margin, crops.smallest)

    def _dataset(self, name: str) -> LabelledDataset:
        config = self.config
        self.datasets[name] = LabelledDataset(
            self.images[name], config.transform(name), config.seed, config.reading(name)
        )
        return self.datasets[name]

    def _evaluation(self, name: str) -> DataLoader[Any]:
        size, share = self.config.eval_batch_size, self._share
        batches = EvalBatchSampler(self._squares(name), size, share.rank, share.world_size)
        return evaluation_loader(self._dataset(name), batches, collate_labelled, **self._options(size))

    def _squares(self, name: str) -> np.ndarray:
        """Return (n, 2) height and width of the images of a split as the network sees them."""
        return np.full((len(self.images[name]), 2), self.config.size)

    def _train_sampler(self) -> TrainBatchSampler:
        share, sizes = self._share, self._squares("train")
        place: dict[str, Any] = {"seed": self.config.seed, "rank": share.rank, "world_size": share.world_size}
        place["accumulated"] = share.accumulated
        if self.config.repeats > 1:
            return RepeatedBatchSampler(sizes, self.device_batch, self.config.repeats, **place)
        return TrainBatchSampler(sizes, self.device_batch, group=False, **place)

    def _options(self, images: int) -> dict[str, Any]:
        """Return the arguments of ``DataLoader`` about workers, their timeout and pinned memory."""
        share = self._share
        allow_open_files()
        side = max(self.config.size, self.config.train_size or 0)
        workers = workers_that_fit(self.config.workers, images * 3 * side**2)
        return {
            "num_workers": workers,
            "worker_init_fn": partial(begin_training_worker, rank=share.rank),
            "pin_memory": share.pin_memory,
            "timeout": WORKER_TIMEOUT if workers else 0,
        }


class UnlabelledDataModule(LabelledDataModule):
    """Provide two views of each image, in batches (B, 2, 3, H, W), to a trainer.

    Example:
        >>> data = UnlabelledDataModule("photos", size=64, resize=72, batch_size=8)
        >>> data.config.crops is None
        True
    """

    __signature__ = inspect.signature(UnlabelledConfig)

    def __init__(self, *settings: Any, **named: Any) -> None:
        """Check and store the settings; :meth:`setup` reads the lists of images.

        Args:
            settings, named: arguments of :class:`~detection.engine.classify.data_config.UnlabelledConfig`.

        Raises:
            InputError: a setting is invalid.
        """
        ResumableData.__init__(self)
        self._begin(UnlabelledConfig(*settings, **named))

    def read(self, names: tuple[str, ...]) -> None:
        """Read the lists of images of splits, unless they have been read before.

        Raises:
            ValueError: a folder or file is missing or wrong, or the images for validation have fewer than two classes.
        """
        config = self.config
        if "test" in names:
            raise ValueError("a pretraining has no test; run rcnn backbones probe RUN --data DATA")
        if "train" not in self.images:
            self.images["train"] = self.unlabelled(config.train)
        if "val" in names and "val" not in self.images and config.val is not None:
            self.images["val"] = self.labelled(config.val)

    def unlabelled(self, given: UnlabelledSplit) -> LabelledImages:
        """Return the images or crops of a split, without labels.

        Raises:
            ValueError: a folder or file is missing or wrong.
        """
        config, root = self.config, Path(with_home(self.config.root))
        folder, listed = root / with_home(given.images), root / with_home(given.annotations)
        if not given.annotations:
            if config.crops is not None:
                raise ValueError("data.crops needs the objects of a COCO file; set data.train.annotations")
            return from_folder(folder)
        if listed.suffix.lower() != ".json":
            raise ValueError(f"data.train: {listed} is no COCO file (.json); leave annotations out to take the folder")
        if not listed.is_file():
            raise ValueError(f"data.train: no file {listed}; set data.root or data.train.annotations")
        if not folder.is_dir():
            raise ValueError(f"data.train: no folder of images {folder}; set data.root or data.train.images")
        annotations = load_annotations(listed, max_pixels=config.max_pixels)
        if config.crops is None:
            return without_labels(from_coco_images(annotations, folder))
        return without_labels(from_coco(annotations, folder, config.crops.margin, config.crops.smallest))

    def labelled(self, given: LabelledSplit) -> LabelledImages:
        """Return the images for validation, with their labels.

        Raises:
            ValueError: a folder or file is missing or wrong, or there are fewer than two classes.
        """
        config = self.config
        crops = config.crops or Crops()
        images = LabelledDataModule(root=config.root, crops=crops, max_pixels=config.max_pixels).listed("val", given)
        if len(images.classes) < 2:
            raise ValueError(
                f"{images.source}: has {plural(len(images.classes), 'class')}, and the k-NN accuracy needs two; set "
                "data.val null"
            )
        return images


def _described(images: LabelledImages) -> dict[str, Any]:
    """Return the number of images, a checksum of their order, and a checksum of their labels and crops."""
    listed, labels = hashlib.sha256(), hashlib.sha256(images.labels.tobytes())
    for index in range(len(images)):
        listed.update(images.files[index].encode(errors="surrogatepass") + b"\0")
    labels.update("\0".join(images.classes).encode(errors="surrogatepass"))
    if images.crops is not None:
        labels.update(images.crops.tobytes())
    return {"images": len(images), "list": listed.hexdigest(), "annotations": labels.hexdigest()}

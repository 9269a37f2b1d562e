"""Read and check the annotations of the splits when a stage first needs them, and build their data sets."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from detection.categories import Categories
from detection.coco.annotations import Annotations, check_same_categories, load_annotations
from detection.coco.crowds import check_learnable, described
from detection.data.dataset import CocoDataset
from detection.data.flipping import partners
from detection.data.maps import Maps
from detection.data.pipeline import Late
from detection.data.presence import check_images
from detection.engine.data_config import DataConfig
from detection.engine.errors import InputError
from detection.engine.map_files import only_images, open_maps
from detection.home import with_home
from detection.wording import plural


class Paths(NamedTuple):
    """Annotation file and image folder of a split."""

    annotations: Path
    images: Path


class Splits:
    """Read the splits ``train``, ``val`` and ``test`` of a data module, and build their data sets.

    Args:
        config: paths of the splits, and settings for reading and transforming images.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.annotations: dict[str, Annotations] = {}
        """Annotations by split, of the splits that have been read."""
        self.maps: dict[str, Maps] = {}
        """Semantic maps by split, for a detector with a semantic head."""
        self.datasets: dict[str, CocoDataset] = {}
        """Data sets by split, of the splits that :meth:`dataset` has built."""

    @property
    def categories(self) -> Categories:
        """Classes, which are the same in all splits in use."""
        return next(iter(self.annotations.values())).categories

    @property
    def semantic_categories(self) -> Categories:
        """Semantic classes, which are the same in all splits in use; for a detector with a semantic head."""
        return next(iter(self.maps.values())).categories

    @property
    def predicted(self) -> str:
        """Name of the split for ``rcnn predict``: ``test``, or ``val`` if only that is set."""
        return "val" if self.config.test is None and self.config.val is not None else "test"

    def of_stage(self, stage: str) -> str:
        """Return the name of the split for the stage ``val``, ``test`` or ``predict``."""
        return self.predicted if stage == "predict" else stage

    def paths(self, name: str) -> Paths:
        """Return the paths of a split.

        Raises:
            InputError: the split is not set.
        """
        split, root = self.config.split(name), Path(with_home(self.config.root))
        if split is None:
            given = "'{images: FOLDER, annotations: FILE}'"
            raise InputError(f"data.{name} is not set; give its images and annotations: --data.{name} {given}")
        if not split.annotations and self.config.maps != "all":
            raise InputError(f"data.{name}.annotations is not set; give a COCO annotation file")
        listed = split.annotations or split.panoptic or self.config.semantic_classes or "annotations.json"
        return Paths(root / with_home(listed), root / with_home(split.images))

    def read(self, names: Sequence[str], known: Callable[[], Categories] | None = None, verbose: bool = False) -> None:
        """Read and check the annotations of splits, unless they have been read before.

        Args:
            names: names of the splits.
            known: function that returns the classes for a file without categories.
            verbose: print a summary of each annotation file.

        Raises:
            InputError: a split is not set.
            FileNotFoundError: a file or folder is missing.
            ValueError: annotations are invalid, or too many images are missing.
        """
        for name in names:
            if name not in self.annotations:
                self.annotations[name] = self._read(name, known)
                if self.config.maps is not None:
                    self.maps[name] = open_maps(self.config, name, self.annotations[name])
                if verbose:
                    print("\n".join(self._described(name)))

    def check_same_classes(self) -> None:
        """Reject splits with different classes.

        Raises:
            ValueError: the classes differ; the message names them.
        """
        first, *others = self.annotations.values()
        for other in others:
            check_same_categories(first, other)
        if len({maps.categories for maps in self.maps.values()}) > 1:
            raise ValueError("the splits have different semantic classes; give their files the same categories")

    def check_training(self) -> None:
        """Reject training data without any object, or without any mask or keypoint if training needs them.

        Raises:
            ValueError: there are no objects, masks or keypoints, or splits have different ones; the message names a
                remedy.
        """
        train = self.annotations["train"]
        if self.config.maps == "all":  # maps alone can be learned
            return
        check_learnable(train)
        if self.config.masks and not train.has_masks:
            raise ValueError(
                f"{train.path}: has no masks; train a Faster R-CNN without them: --model.mask_head null, and for a "
                "PointRend --model.point_head null"
            )
        if self.config.keypoints and not train.has_keypoints:
            raise ValueError(
                f"{train.path}: has no keypoints; train a detector without them: --model.keypoint_head null. A file "
                "with keypoints names them in its categories"
            )
        for other in self.annotations.values():
            if self.config.keypoints and other.categories.skeletons != train.categories.skeletons:
                raise ValueError(f"{train.path} and {other.path} have different keypoints; give both the same list")
        if self.config.copy_paste and not train.has_masks:
            raise ValueError(f"{train.path}: has no masks, but data.copy_paste needs them; set data.copy_paste to null")

    def dataset(self, name: str, resize_later: bool = False, calm_from: int | None = None) -> CocoDataset:
        """Build the data set of a split that has been read, with the transforms of training or evaluation.

        Args:
            name: name of the split.
            resize_later: leave resizing and flipping to the device.
            calm_from: first epoch without strong augmentation; None: there is no such epoch.
        """
        config = self.config
        late = None if calm_from is None else Late(calm_from, config.transforms(name, resize_later, late=True))
        self.datasets[name] = CocoDataset(
            self.annotations[name],
            self.paths(name).images,
            config.transforms(name, resize_later),
            config.masks,
            config.seed,
            reading=config.reading(name),
            draft=name == "train",
            late=late,
            maps=self.maps.get(name),
            partners=partners(self.annotations[name].categories, config.flip_pairs) if config.keypoints else None,
        )
        return self.datasets[name]

    def _described(self, name: str) -> list[str]:
        """Return the first log lines about a split."""
        annotations = self.annotations[name]
        if self.config.maps != "all":
            return described(name, annotations)
        classes = plural(len(self.maps[name].categories), "semantic class")
        return [f"{name}: {plural(len(annotations), 'image')}, {classes}, {annotations.path}"]

    def _read(self, name: str, known: Callable[[], Categories] | None) -> Annotations:
        path, folder = self.paths(name)
        if not path.is_file():
            raise FileNotFoundError(f"no annotations {path}; set data.root or data.{name}.annotations")
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder of images {folder}; set data.root or data.{name}.images")
        split, config = self.config.split(name), self.config
        if split is not None and not split.annotations and config.maps == "all":
            annotations = only_images(config, name)
        else:
            needs_masks = config.masks or (config.maps is not None and config.semantic == "instances")
            annotations = load_annotations(path, needs_masks, config.max_pixels, known)
        reading = self.config.reading(name)
        check_images(CocoDataset(annotations, folder, reading=reading), allowed=reading.bad_images)
        return annotations

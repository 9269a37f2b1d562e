"""The annotations of the splits: read and checked when a stage first needs them, and the data sets made of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from detection.coco.annotations import Annotations, check_same_categories, load_annotations
from detection.coco.crowds import check_learnable, described
from detection.data.dataset import CocoDataset
from detection.data.pipeline import Late
from detection.data.presence import check_images
from detection.engine.data_config import DataConfig
from detection.engine.errors import InputError
from detection.home import with_home
from detection.structures import Categories


class Paths(NamedTuple):
    """The files of a split."""

    annotations: Path
    images: Path


class Splits:
    """The splits of a data module, by the names ``train``, ``val`` and ``test``.

    Args:
        config: their paths, and how their images are read.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.annotations: dict[str, Annotations] = {}
        """Those that have been read."""
        self.datasets: dict[str, CocoDataset] = {}
        """Those that have been made."""

    @property
    def categories(self) -> Categories:
        """The classes; those of all splits in use are the same."""
        return next(iter(self.annotations.values())).categories

    @property
    def predicted(self) -> str:
        """The split of ``rcnn predict``."""
        return "val" if self.config.test is None and self.config.val is not None else "test"

    def of_stage(self, stage: str) -> str:
        """The split that ``val``, ``test`` or ``predict`` evaluates."""
        return self.predicted if stage == "predict" else stage

    def paths(self, name: str) -> Paths:
        """The files of a split.

        Raises:
            InputError: the split is not set.
        """
        split, root = self.config.split(name), Path(with_home(self.config.root))
        if split is None:
            given = "'{images: FOLDER, annotations: FILE}'"
            raise InputError(f"data.{name} is not set; give its images and annotations: --data.{name} {given}")
        return Paths(root / with_home(split.annotations), root / with_home(split.images))

    def read(self, names: Sequence[str], known: Callable[[], Categories] | None = None, verbose: bool = False) -> None:
        """Read and check the annotations of splits that have not been read.

        Args:
            known: gives the classes of a file that lists none.
            verbose: print what is in them.

        Raises:
            InputError: a split is not set.
            FileNotFoundError: a file or folder is not there.
            ValueError: annotations that cannot be used, or too many images that cannot be found.
        """
        for name in names:
            if name not in self.annotations:
                self.annotations[name] = self._read(name, known)
                if verbose:
                    print("\n".join(described(name, self.annotations[name])))

    def check_same_classes(self) -> None:
        """Reject splits of different classes.

        Raises:
            ValueError: naming the classes that differ.
        """
        first, *others = self.annotations.values()
        for other in others:
            check_same_categories(first, other)

    def check_training(self) -> None:
        """Reject training images without an object to learn from, or without a mask where masks are trained.

        Raises:
            ValueError: with what to do.
        """
        train = self.annotations["train"]
        check_learnable(train)
        if self.config.masks and not train.has_masks:
            raise ValueError(
                f"{train.path}: has no mask to learn from; without masks it is a Faster R-CNN: --model.mask_head null"
            )
        if self.config.copy_paste and not train.has_masks:
            raise ValueError(f"{train.path}: has no mask, which data.copy_paste needs to paste objects; set it to null")

    def dataset(self, name: str, resize_later: bool = False, calm_from: int | None = None) -> CocoDataset:
        """A split that has been read, as training or evaluation sees it.

        Args:
            resize_later: resize and flip on the device.
            calm_from: first epoch without the strong augmentation; never by default.
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
        )
        return self.datasets[name]

    def _read(self, name: str, known: Callable[[], Categories] | None) -> Annotations:
        path, folder = self.paths(name)
        if not path.is_file():
            raise FileNotFoundError(f"no annotations {path}; set data.root or data.{name}.annotations")
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder of images {folder}; set data.root or data.{name}.images")
        annotations = load_annotations(path, self.config.masks, self.config.max_pixels, known)
        reading = self.config.reading(name)
        check_images(CocoDataset(annotations, folder, reading=reading), allowed=reading.bad_images)
        return annotations

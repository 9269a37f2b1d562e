"""Settings of data for a classifier or a pretraining without labels; on the command line they are ``--data.NAME``."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from detection.coco.limits import MAX_PIXELS
from detection.data.labelled_dataset import Transform, centre_square
from detection.data.limits import check_probability
from detection.data.randaugment import VariedRandAugment
from detection.data.reading import Reading


@dataclass(frozen=True)
class LabelledSplit:
    """Images and labels of one split."""

    images: str
    """Folder of the images, relative to root. Without annotations, it has a folder of images for each class."""
    annotations: str = ""
    """File with the labels, relative to root: a CSV file with the columns file and label, or a COCO file (.json), of
    which each object is an image. With multi_label, see there."""


@dataclass(frozen=True)
class Crops:
    """Crops of the objects of a COCO file."""

    margin: float = 0.1
    """Pixels to add on each side, as a fraction of the side of the box."""
    smallest: int = 16
    """Sides of a box in pixels, below which its object has no crop."""

    def check(self) -> None:
        """Reject invalid settings.

        Raises:
            ValueError: a setting is out of its range.
        """
        if self.margin < 0 or self.smallest < 1:
            raise ValueError("data.crops: margin must be 0 or more, smallest 1")


@dataclass(frozen=True)
class LabelledConfig:
    """All settings of :class:`~detection.engine.classify.datamodule.LabelledDataModule`."""

    root: str = "datasets/imagenet"
    """Folder to which the paths of the splits are relative."""
    train: LabelledSplit = LabelledSplit("train")
    """Images and labels for training."""
    val: LabelledSplit | None = LabelledSplit("val")
    """Images and labels for validation; null: val_fraction of those for training."""
    test: LabelledSplit | None = None
    """Images and labels for `rcnn test`."""
    val_fraction: float = 0.2
    """Fraction of the training images of each class to validate on, if val is null; 0: no validation."""
    crops: Crops = Crops()
    """Crops of the objects of a COCO file."""
    multi_label: bool = False
    """An image may have several classes, or none. A CSV file has them in the column label, or it has a column of 0 and
    1 for each class. A COCO file gives whole images with the classes of their objects. Needs model.loss.kind binary."""
    separator: str = ";"
    """Text between the classes of a label, with multi_label."""
    size: int = 224
    """Side of the square that the network sees, in pixels."""
    train_size: int | None = None
    """The same for training; null: size. Smaller squares train faster (Touvron et al. 2019)."""
    resize: int = 256
    """Shorter side after resizing at test time, before the square is cut from the centre; at least size."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Method of resizing, with antialiasing."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest area of the random part of a training image, as fractions of its area."""
    ratio: tuple[float, float] = (0.75, 1.3333)
    """Smallest and largest ratio of width and height of that part."""
    flip: float = 0.5
    """Probability of flipping a training image horizontally."""
    jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation of a training image; 0: none."""
    randaugment: int | None = None
    """Magnitude of RandAugment's two operations, from 0 to 30 (Cubuk et al. 2019); null: none."""
    randaugment_deviation: float = 0.0
    """Standard deviation of the magnitude of each operation; 0: always randaugment."""
    repeats: int = 1
    """Differently augmented copies of an image in a step (repeated augmentation, Hoffer et al. 2020). An epoch has the
    same number of steps, and only this part of the images, others in each epoch."""
    batch_size: int = 256
    """Images per optimizer step, over all devices and accumulated batches."""
    eval_batch_size: int = 256
    """Images per batch and device in evaluation."""
    workers: int = 4
    """Processes per device that load images; 0: the training process loads them."""
    bad_images: int = 0
    """Number of training images that may be unreadable. The loader replaces each with the next readable image, and one
    more is an error."""
    max_pixels: int = MAX_PIXELS
    """Largest number of pixels per image."""
    seed: int = 0
    """Seed of the order and of the random transforms. Follows seed_everything."""

    def check(self) -> None:
        """Reject invalid settings.

        Raises:
            ValueError: a setting is out of its range.
        """
        check_probability("data.flip", self.flip)
        self.crops.check()
        low, high = self.scale
        for wrong, message in (
            (not self.separator, "data.separator must not be empty"),
            (min(self.batch_size, self.eval_batch_size) < 1, "data.batch_size and eval_batch_size must be at least 1"),
            (not 0 <= self.val_fraction < 1, f"data.val_fraction {self.val_fraction} must be from 0 to below 1"),
            (not 1 <= self.size <= self.resize, f"data.size {self.size} must be from 1 to resize, {self.resize}"),
            (self.train_size is not None and self.train_size < 1, "data.train_size must be at least 1"),
            (not 0 < low <= high <= 1, f"data.scale {low}, {high} must be two fractions above 0, the smaller first"),
            (self.ratio[0] > self.ratio[1] or self.ratio[0] <= 0, "data.ratio must be above 0, the smaller first"),
            (not 0 <= self.jitter <= 1, f"data.jitter {self.jitter} must be from 0 to 1"),
            (self.randaugment is not None and not 0 <= self.randaugment <= 30, "data.randaugment must be 0 to 30"),
            (self.randaugment_deviation < 0, "data.randaugment_deviation must not be below 0"),
            (
                not 1 <= self.repeats <= self.batch_size,
                f"data.repeats {self.repeats} must be 1 to data.batch_size",
            ),
            (min(self.workers, self.bad_images) < 0, "data.workers and data.bad_images must not be below 0"),
        ):
            if wrong:
                raise ValueError(message)

    def split(self, name: str) -> LabelledSplit | None:
        """Return the split ``train``, ``val`` or ``test``; None if it is not set."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    @property
    def validates(self) -> bool:
        """Whether there are images for validation."""
        return self.val is not None or self.val_fraction > 0

    def reading(self, name: str) -> Reading:
        """Return the limits for reading the images of a split; only training replaces unreadable ones."""
        return Reading(self.max_pixels, bad_images=self.bad_images if name == "train" else 0)

    def transform(self, name: str) -> Transform:
        """Return the transform of a split: random for ``train``, the square in the centre for the others."""
        if name != "train":
            return centre_square(self.size, self.resize, self.interpolation)
        method = InterpolationMode(self.interpolation)
        steps: list[Transform] = [
            v2.RandomResizedCrop(self.train_size or self.size, self.scale, self.ratio, method, antialias=True),
            v2.RandomHorizontalFlip(self.flip),
        ]
        if self.randaugment is not None:
            steps.append(VariedRandAugment(self.randaugment, self.randaugment_deviation, interpolation=method))
        if self.jitter:
            steps.append(v2.ColorJitter(self.jitter, self.jitter, self.jitter))
        return v2.Compose(steps)


@dataclass(frozen=True)
class UnlabelledSplit:
    """Images of a split, without labels."""

    images: str
    """Folder of the images, relative to root; images in its folders count."""
    annotations: str = ""
    """COCO file (.json), relative to root, whose images train; without it, all images of the folder do."""


@dataclass(frozen=True)
class UnlabelledConfig:
    """All settings of :class:`~detection.engine.classify.datamodule.UnlabelledDataModule`."""

    root: str = "datasets/images"
    """Folder to which the paths of the splits are relative."""
    train: UnlabelledSplit = UnlabelledSplit(".")
    """Images for training."""
    val: LabelledSplit | None = None
    """Images with labels, whose k-NN accuracy judges the features: class folders, a CSV file, or a COCO file, of which
    each object is an image; null: no validation."""
    crops: Crops | None = None
    """Crops of the objects of a COCO file, one image for each; null: whole images in training."""
    size: int = 224
    """Side of the square that the network sees, in pixels."""
    resize: int = 256
    """Shorter side of a validation image after resizing, before the square is cut from the centre; at least size."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Method of resizing, with antialiasing."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest area of a view, as fractions of the area of the image."""
    ratio: tuple[float, float] = (0.75, 1.3333)
    """Smallest and largest ratio of width and height of a view before resizing."""
    flip: float = 0.5
    """Probability of flipping a view horizontally."""
    jitter: float = 0.4
    """Largest relative change of brightness, contrast and saturation of a view; that of hue is a quarter of it."""
    jittered: float = 0.8
    """Probability of changing the colours of a view."""
    gray: float = 0.2
    """Probability of removing the colours of a view."""
    blur: float = 0.5
    """Probability of blurring a view, with a standard deviation from 0.1 to 2 pixels."""
    batch_size: int = 512
    """Images per optimizer step, over all devices and accumulated batches."""
    eval_batch_size: int = 256
    """Images per batch and device in evaluation."""
    workers: int = 4
    """Processes per device that load images; 0: the training process loads them."""
    bad_images: int = 0
    """Number of training images that may be unreadable. The loader replaces each with the next readable image, and one
    more is an error."""
    max_pixels: int = MAX_PIXELS
    """Largest number of pixels per image."""
    seed: int = 0
    """Seed of the order and of the random transforms. Follows seed_everything."""

    repeats, train_size = 1, None  # of a classifier's data; not settings here

    def check(self) -> None:
        """Reject invalid settings.

        Raises:
            ValueError: a setting is out of its range.
        """
        for name in ("flip", "jittered", "gray", "blur"):
            check_probability(f"data.{name}", getattr(self, name))
        if self.crops is not None:
            self.crops.check()
        low, high = self.scale
        for wrong, message in (
            (min(self.batch_size, self.eval_batch_size) < 1, "data.batch_size and eval_batch_size must be at least 1"),
            (not 1 <= self.size <= self.resize, f"data.size {self.size} must be from 1 to resize, {self.resize}"),
            (not 0 < low <= high <= 1, f"data.scale {low}, {high} must be two fractions above 0, the smaller first"),
            (self.ratio[0] > self.ratio[1] or self.ratio[0] <= 0, "data.ratio must be above 0, the smaller first"),
            (not 0 <= self.jitter <= 1, f"data.jitter {self.jitter} must be from 0 to 1"),
            (min(self.workers, self.bad_images) < 0, "data.workers and data.bad_images must not be below 0"),
        ):
            if wrong:
                raise ValueError(message)

    def reading(self, name: str) -> Reading:
        """Return the limits for reading the images of a split; only training replaces unreadable ones."""
        return Reading(self.max_pixels, bad_images=self.bad_images if name == "train" else 0)

    def transform(self, name: str) -> Transform:
        """Return the transform of a split: two random views for ``train``, the square in the centre for ``val``.

        The views are those of the paper, appendix A; the kernel of the blur has a tenth of the side, as in SimCLR.
        """
        if name != "train":
            return centre_square(self.size, self.resize, self.interpolation)
        method, change = InterpolationMode(self.interpolation), self.jitter
        steps: list[Transform] = [
            v2.RandomResizedCrop(self.size, self.scale, self.ratio, method, antialias=True),
            v2.RandomHorizontalFlip(self.flip),
            v2.RandomApply([v2.ColorJitter(change, change, change, change / 4)], self.jittered),
            v2.RandomGrayscale(self.gray),
            v2.RandomApply([v2.GaussianBlur(max(3, self.size // 20 * 2 + 1), (0.1, 2.0))], self.blur),
        ]
        return TwoViews(v2.Compose(steps))


class TwoViews:
    """Two independent results of a random transform, (2, 3, H, W)."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def __call__(self, image: Tensor) -> Tensor:
        return torch.stack([self.transform(image), self.transform(image)])

"""The settings of the data module, in groups; the command line shows them as ``--data.NAME``.

Each group checks its own settings. The texts under the fields are the help of the command line.
"""

from dataclasses import dataclass, fields, replace

from detection.data.augmentation import Albumentations
from detection.data.collate import canvas_of, few_canvases_for
from detection.data.copy_paste import CopyPaste
from detection.data.jitter import JitterConfig, LargeScaleJitter
from detection.data.limits import check_probability
from detection.data.mixup import MixUp
from detection.data.mosaic import Mosaic
from detection.data.photometric import PhotometricDistortion
from detection.data.pipeline import Step
from detection.data.reading import Reading
from detection.data.transforms import HorizontalFlip, RandomCrop, Resize
from detection.evaluation.limits import COCO_LIMITS, limits_up_to
from detection.structures import ResizeMethod


@dataclass(frozen=True)
class Split:
    """Images and their annotations."""

    images: str
    """Folder of the images, below root."""
    annotations: str
    """COCO annotation file, below root."""


@dataclass(frozen=True)
class SplitConfig:
    """The places of the images and annotations."""

    root: str = "datasets/coco"
    """Folder that the paths of the splits begin at."""
    train: Split = Split("train2017", "annotations/instances_train2017.json")
    """Images to learn from."""
    val: Split | None = Split("val2017", "annotations/instances_val2017.json")
    """Images to validate on; null trains without validation, so that last.ckpt is the result."""
    test: Split | None = None
    """Images of `rcnn test` and `rcnn predict`; predict takes those of val if there are none."""

    def split(self, name: str) -> Split | None:
        """The split ``train``, ``val`` or ``test``; None where it is not set."""
        found: Split | None = {"train": self.train, "val": self.val, "test": self.test}[name]
        return found


@dataclass(frozen=True)
class SizeConfig:
    """Size of the images that the detector sees."""

    short_side: int | list[int] = 800
    """Pixels of the shorter side after resizing; of several numbers, training draws one for each image and evaluation
    takes the largest."""
    long_side: int = 1333
    """Pixels of the longer side at most."""
    resize: ResizeMethod = "opencv"
    """The way of resizing: opencv; or, for weights of other toolkits, bilinear (mmdetection), pillow (detectron2) or
    tensor (torchvision)."""

    @property
    def short_sides(self) -> list[int]:
        """All values of ``short_side``."""
        return [self.short_side] if isinstance(self.short_side, int) else list(self.short_side)

    @property
    def test_size(self) -> tuple[int, int]:
        """Shorter and longer side of images in evaluation."""
        return max(self.short_sides), self.long_side

    @property
    def test_resize(self) -> Resize:
        """The resizing of an evaluation."""
        return Resize(*self.test_size, self.resize)

    def check_sizes(self) -> None:
        """Reject sides that no image can have.

        Raises:
            ValueError: a short side below 1 or above the long side, or none.
        """
        sides = self.short_sides
        if not sides or min(sides) < 1 or max(sides) > self.long_side:
            raise ValueError(
                f"data.short_side {self.short_side} must be above 0 and not above data.long_side {self.long_side}"
            )


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images."""

    flip: float = 0.5
    """Probability that a training image is flipped horizontally."""
    crop: tuple[int, int] | None = None
    """Height and width of a window that training images are cut to before they are resized."""
    augment: list[object] | None = None
    """Albumentations transforms of the training images, by class_path and init_args."""

    def check_augmentation(self) -> None:
        """Reject changes that cannot be made.

        Raises:
            ValueError: a flip that is no probability, an empty window, or something that is no transform.
        """
        if not all(map(callable, self.augment or [])):
            raise ValueError("data.augment takes transforms, each as {class_path: ..., init_args: {...}}")
        check_probability("data.flip", self.flip)
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"data.crop {list(self.crop)} must be a height and a width of at least 1 pixel")


@dataclass(frozen=True)
class LoadConfig:
    """Batches, and the processes that load them."""

    batch_size: int = 16
    """Images per optimizer step, over all devices and accumulated batches."""
    eval_batch_size: int = 1
    """Images per device and batch in evaluation; more than one is faster on a GPU. The batches are the same for any
    number of devices."""
    workers: int = 4
    """Processes per device that load images."""
    masks: bool = False
    """Whether the detector has a mask head."""
    seed: int = 0
    """Seed of the order of the images and of the augmentations."""
    few_canvases: bool = False
    """Pad training batches to one of a few sizes, so that a compiled detector meets no other."""

    def check_batches(self) -> None:
        """Reject batches without images.

        Raises:
            ValueError: a batch size below 1.
        """
        if min(self.batch_size, self.eval_batch_size) < 1:
            raise ValueError(
                f"data.batch_size {self.batch_size} and eval_batch_size {self.eval_batch_size} must be at least 1"
            )


@dataclass(frozen=True)
class OtherConfig:
    """Settings of none of the other groups."""

    resize_on_device: bool = False
    """Resize and flip training images on the device, where the workers are the limit."""
    max_detections: int = COCO_LIMITS[-1]
    """Detections of a class in an image that evaluation scores, 100 as COCO. Recall is named after it, as AR300. What
    the detector finds at all is model.box_head.detections."""


@dataclass(frozen=True)
class StrongConfig:
    """Strong random changes of training images, for long recipes."""

    jitter: JitterConfig | None = None
    """Large-scale jitter: resize by a random factor, then cut or pad to one size. It replaces short_side and long_side
    in training."""
    copy_paste: CopyPaste | None = None
    """Paste objects of a second training image. Needs masks."""
    mosaic: Mosaic | None = None
    """Put four training images into one."""
    mixup: MixUp | None = None
    """Blend each training image with a second one."""
    photometric: PhotometricDistortion | None = None
    """Change brightness, contrast, saturation, hue and the order of the channels."""
    strong_until: float = 1.0
    """The part of the training after which jitter, copy_paste, mosaic, mixup and photometric end, in whole epochs; 1
    keeps them to the end."""

    @property
    def mixes(self) -> list[CopyPaste | Mosaic | MixUp]:
        """The changes that take further images."""
        return [one for one in (self.mosaic, self.copy_paste, self.mixup) if one is not None]

    @property
    def is_strong(self) -> bool:
        """Whether any of the changes is set."""
        return bool(self.mixes) or self.jitter is not None or self.photometric is not None

    def check_strong(self) -> None:
        """Reject changes that cannot be made.

        Raises:
            ValueError: naming the setting.
        """
        for one in (self.jitter, self.photometric, *self.mixes):
            if one is not None:
                one.check()
        if not 0 <= self.strong_until <= 1:
            raise ValueError(f"data.strong_until {self.strong_until} must be a part of the training, from 0 to 1")


@dataclass(frozen=True)
class DataConfig(StrongConfig, OtherConfig, Reading, LoadConfig, AugmentConfig, SizeConfig, SplitConfig):
    """All settings of :class:`~detection.engine.datamodule.CocoDataModule`."""

    def check(self) -> None:
        """Reject settings that no data module can have.

        Raises:
            ValueError: naming the setting, and what it must be.
        """
        limits_up_to(self.max_detections)
        self.check_sizes()
        if self.resize_on_device and self.resize != "opencv":
            raise ValueError(f"data.resize_on_device resizes as opencv does; data.resize is {self.resize}")
        self.check_augmentation()
        self.check_strong()
        if self.resize_on_device and (self.jitter or self.mixes):
            raise ValueError(
                "data.resize_on_device cannot resize for data.jitter, copy_paste, mosaic and mixup, which the loader "
                "does; set it to false"
            )
        if self.bad_images < 0 or self.max_pixels < 1:
            raise ValueError(
                f"data.bad_images {self.bad_images} must be at least 0, data.max_pixels {self.max_pixels} at least 1"
            )
        self.check_batches()

    @property
    def detection_limits(self) -> tuple[int, ...]:
        """The numbers of detections at which an evaluation scores."""
        return limits_up_to(self.max_detections)

    @property
    def canvases(self) -> list[tuple[int, int]] | None:
        """Height and width of the few canvases of training batches; None where each batch has its own."""
        if not self.few_canvases:
            return None
        jittered = [canvas_of([self.jitter.size])] if self.jitter else []
        return jittered + few_canvases_for(*self.test_size)

    def reading(self, split: str) -> Reading:
        """The limits of reading the images of a split: only a training may replace images that cannot be read."""
        found = Reading(**{field.name: getattr(self, field.name) for field in fields(Reading)})
        return found if split == "train" else replace(found, bad_images=0)

    def transforms(self, split: str, resize_later: bool = False, late: bool = False) -> list[Step]:
        """The transforms of the images of a split, in this order.

        Args:
            resize_later: resize and flip on the device.
            late: return those that follow ``strong_until``.
        """
        if split != "train":
            return [self.test_resize]
        strong = StrongConfig() if late else self
        found: list[Step] = [RandomCrop(*self.crop)] if self.crop else []
        found += [Albumentations(self.augment)] if self.augment else []
        found += [one for one in (strong.photometric, strong.mosaic) if one is not None]
        flip = [HorizontalFlip(self.flip, resize_later)] if self.flip else []
        if strong.jitter is not None:
            found += [LargeScaleJitter(strong.jitter, self.resize), *flip]
        else:
            found += [*flip, Resize(self.short_sides, self.long_side, self.resize, resize_later)]
        return found + [one for one in (strong.copy_paste, strong.mixup) if one is not None]

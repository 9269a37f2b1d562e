"""Settings of the data module, in groups; on the command line they are ``--data.NAME``.

Each group checks its own settings. The texts under the fields are the help texts of the command line.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal

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
    """Images and annotations of one split."""

    images: str
    """Folder of the images, relative to root."""
    annotations: str = ""
    """COCO annotation file, relative to root. Set it to '' for a Semantic FPN that learns from label PNGs or a panoptic
    file alone."""
    labels: str | None = None
    """Folder of label PNGs, or of the PNGs of the panoptic file, relative to root."""
    panoptic: str | None = None
    """File in COCO's panoptic format, relative to root."""


@dataclass(frozen=True)
class SplitConfig:
    """Paths of the images and annotations."""

    root: str = "datasets/coco"
    """Folder to which the paths of the splits are relative."""
    train: Split = Split("train2017", "annotations/instances_train2017.json")
    """Images and annotations for training."""
    val: Split | None = Split("val2017", "annotations/instances_val2017.json")
    """Images and annotations for validation; null: no validation, so that last.ckpt is the result."""
    test: Split | None = None
    """Images and annotations for `rcnn test` and `rcnn predict`; null: `rcnn predict` uses those of val."""

    def split(self, name: str) -> Split | None:
        """Return the split ``train``, ``val`` or ``test``; None if it is not set."""
        found: Split | None = {"train": self.train, "val": self.val, "test": self.test}[name]
        return found


@dataclass(frozen=True)
class SizeConfig:
    """Size of the images after resizing."""

    short_side: int | list[int] = 800
    """Shorter side after resizing, in pixels. With a list, training draws a value for each image, and evaluation uses
    the largest."""
    long_side: int = 1333
    """Maximum of the longer side after resizing, in pixels; it overrides short_side for long images."""
    resize: ResizeMethod = "opencv"
    """Method of resizing: opencv; or for weights of other toolkits, bilinear (mmdetection), pillow (detectron2) or
    tensor (torchvision)."""

    @property
    def short_sides(self) -> list[int]:
        """All values of ``short_side``."""
        return [self.short_side] if isinstance(self.short_side, int) else list(self.short_side)

    @property
    def test_size(self) -> tuple[int, int]:
        """Shorter side, and maximum of the longer side, of images in evaluation, in pixels."""
        return max(self.short_sides), self.long_side

    @property
    def test_resize(self) -> Resize:
        """Transform that resizes images in evaluation."""
        return Resize(*self.test_size, self.resize)

    def check_sizes(self) -> None:
        """Reject invalid sizes.

        Raises:
            ValueError: a short side is below 1 or above the long side, or the list is empty.
        """
        sides = self.short_sides
        if not sides or min(sides) < 1 or max(sides) > self.long_side:
            raise ValueError(
                f"data.short_side {self.short_side} must be above 0 and not above data.long_side {self.long_side}"
            )


@dataclass(frozen=True)
class AugmentConfig:
    """Basic random augmentation of training images."""

    flip: float = 0.5
    """Probability of flipping a training image horizontally, from 0 to 1."""
    crop: tuple[int, int] | None = None
    """Height and width of a random crop of training images before resizing, in pixels; null: no crop."""
    augment: list[object] | None = None
    """Albumentations transforms for training images, each with class_path and init_args; null: none."""

    def check_augmentation(self) -> None:
        """Reject invalid settings of the basic augmentation.

        Raises:
            ValueError: ``flip`` is not a probability, the crop is empty, or an item of ``augment`` is no transform.
        """
        if not all(map(callable, self.augment or [])):
            raise ValueError("data.augment takes transforms, each as {class_path: ..., init_args: {...}}")
        check_probability("data.flip", self.flip)
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"data.crop {list(self.crop)} must be a height and a width of at least 1 pixel")


@dataclass(frozen=True)
class LoadConfig:
    """Batches, and the worker processes that load them."""

    batch_size: int = 16
    """Images per optimizer step, the total of all devices and accumulated batches."""
    eval_batch_size: int = 1
    """Images per device and batch in evaluation; more than 1 is faster on a GPU. The batches do not depend on the
    number of devices."""
    workers: int = 4
    """Worker processes per device that load images; 0: the training process loads them itself."""
    masks: bool = False
    """Load the masks of the objects; the command line sets it to whether the detector has a mask head."""
    seed: int = 0
    """Seed for the order of the images and the random augmentation."""
    few_canvases: bool = False
    """Pad training batches to one of a few fixed sizes, so that a compiled detector needs few compilations."""

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
class MapConfig:
    """Semantic maps, for a detector with a semantic head."""

    semantic: Literal["instances", "labels", "panoptic"] = "instances"
    """Where semantic maps come from: the masks of the objects, label PNGs (labels of each split), or COCO's panoptic
    format (panoptic and labels of each split)."""
    semantic_classes: str | None = None
    """JSON file with the classes of label PNGs, relative to root: a list of id, name and, for a Panoptic FPN, isthing.
    A pixel has the id of its class."""
    unlabelled: tuple[int, ...] = (0, 255)
    """Values in label PNGs that mean no label, if no class has this id."""
    maps: Literal["all", "stuff"] | None = None
    """Load semantic maps; the command line sets it to what the detector needs: all classes for a Semantic FPN, stuff
    for a Panoptic FPN."""

    def check_maps(self) -> None:
        """Reject invalid settings of semantic maps.

        Raises:
            ValueError: the classes of label PNGs are not given, or a value is out of range.
        """
        if self.maps and self.semantic == "labels" and self.semantic_classes is None:
            raise ValueError("data.semantic labels needs data.semantic_classes, a JSON file with the classes")
        if not all(0 <= value <= 65535 for value in self.unlabelled):
            raise ValueError(f"data.unlabelled {list(self.unlabelled)} must be values of a PNG, from 0 to 65535")


@dataclass(frozen=True)
class OtherConfig:
    """Settings that belong to no other group."""

    resize_on_device: bool = False
    """Resize and flip training images on the device instead of in the workers; faster if the workers are too slow."""
    max_detections: int = COCO_LIMITS[-1]
    """Maximum number of detections per class and image in evaluation; COCO: 100. The names of the recalls contain it,
    such as AR300. model.box_head.detections limits the output of the detector itself."""


@dataclass(frozen=True)
class StrongConfig:
    """Strong random augmentation of training images, for long trainings."""

    jitter: JitterConfig | None = None
    """Large-scale jitter: resize by a random factor, then crop or pad to a fixed size. It replaces short_side and
    long_side in training."""
    copy_paste: CopyPaste | None = None
    """Paste objects of a second training image into each image. It needs masks."""
    mosaic: Mosaic | None = None
    """Combine four training images into one."""
    mixup: MixUp | None = None
    """Blend each training image with a second one."""
    photometric: PhotometricDistortion | None = None
    """Change brightness, contrast, saturation, hue and the order of the channels."""
    strong_until: float = 1.0
    """Fraction of the training during which jitter, copy_paste, mosaic, mixup and photometric are active, rounded up to
    whole epochs; 1: until the end."""

    @property
    def mixes(self) -> list[CopyPaste | Mosaic | MixUp]:
        """Transforms that combine several training images."""
        return [one for one in (self.mosaic, self.copy_paste, self.mixup) if one is not None]

    @property
    def is_strong(self) -> bool:
        """Whether any strong augmentation is set."""
        return bool(self.mixes) or self.jitter is not None or self.photometric is not None

    def check_strong(self) -> None:
        """Reject invalid settings of the strong augmentation.

        Raises:
            ValueError: a setting is invalid; the message names it.
        """
        for one in (self.jitter, self.photometric, *self.mixes):
            if one is not None:
                one.check()
        if not 0 <= self.strong_until <= 1:
            raise ValueError(f"data.strong_until {self.strong_until} must be a fraction of the training, from 0 to 1")


@dataclass(frozen=True)
class KeypointConfig:
    """Keypoints of the objects."""

    keypoints: bool = False
    """Load the keypoints of the objects; the command line sets it to whether the detector has a keypoint head."""
    flip_pairs: list[tuple[str, str]] | None = None
    """Pairs of keypoints that change places in a flipped image, by their names; null: names that differ only in left
    and right, such as left_eye and right_eye."""
    keypoint_sigmas: list[float] | None = None
    """For each keypoint, how far annotators differ, in evaluation (COCO's OKS); null: COCO's values for 17 keypoints,
    otherwise 0.05."""


@dataclass(frozen=True)
class DataConfig(
    KeypointConfig, MapConfig, StrongConfig, OtherConfig, Reading, LoadConfig, AugmentConfig, SizeConfig, SplitConfig
):
    """All settings of :class:`~detection.engine.datamodule.CocoDataModule`."""

    def check(self) -> None:
        """Reject invalid settings of all groups.

        Raises:
            ValueError: a setting is invalid; the message names it and its range.
        """
        limits_up_to(self.max_detections)
        self.check_sizes()
        if self.resize_on_device and self.resize != "opencv":
            raise ValueError(f"data.resize_on_device resizes as opencv does; data.resize is {self.resize}")
        self.check_augmentation()
        self.check_strong()
        if self.resize_on_device and (self.jitter or self.mixes):
            raise ValueError(
                "data.resize_on_device must be false with data.jitter, copy_paste, mosaic or mixup, which resize in "
                "the workers"
            )
        if self.bad_images < 0 or self.max_pixels < 1:
            raise ValueError(
                f"data.bad_images {self.bad_images} must be at least 0, data.max_pixels {self.max_pixels} at least 1"
            )
        self.check_batches()
        self.check_maps()
        if self.maps and self.mixes:
            raise ValueError("data.mosaic, mixup and copy_paste leave no semantic map; set them to null")

    @property
    def detection_limits(self) -> tuple[int, ...]:
        """Numbers of detections per class and image for which an evaluation computes the recall."""
        return limits_up_to(self.max_detections)

    @property
    def canvases(self) -> list[tuple[int, int]] | None:
        """Height and width of each fixed canvas of training batches; None if each batch has its own size."""
        if not self.few_canvases:
            return None
        jittered = [canvas_of([self.jitter.size])] if self.jitter else []
        return jittered + few_canvases_for(*self.test_size)

    def reading(self, split: str) -> Reading:
        """Return the settings for reading the images of a split; only training may replace unreadable images."""
        found = Reading(**{field.name: getattr(self, field.name) for field in fields(Reading)})
        return found if split == "train" else replace(found, bad_images=0)

    def transforms(self, split: str, resize_later: bool = False, late: bool = False) -> list[Step]:
        """Return the transforms for the images of a split, in the order in which they apply.

        Args:
            resize_later: return transforms that leave resizing and flipping to the device.
            late: return the transforms after ``strong_until``, without the strong augmentation.
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

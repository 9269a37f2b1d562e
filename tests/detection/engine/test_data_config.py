"""The settings of the data module: their groups, order and checks."""

import inspect
from dataclasses import fields

import pytest

from detection.data.collate import canvas_of
from detection.data.copy_paste import CopyPaste
from detection.data.jitter import JitterConfig, LargeScaleJitter
from detection.data.mixup import MixUp
from detection.data.mosaic import Mosaic
from detection.data.photometric import PhotometricDistortion
from detection.data.reading import Reading
from detection.data.transforms import HorizontalFlip, RandomCrop, Resize
from detection.engine.data_config import (
    AugmentConfig,
    DataConfig,
    KeypointConfig,
    LoadConfig,
    MapConfig,
    OtherConfig,
    SizeConfig,
    SplitConfig,
    StrongConfig,
)
from detection.engine.datamodule import CocoDataModule
from detection.engine.errors import InputError

ORDER = (
    "root train val test short_side long_side resize flip crop augment batch_size eval_batch_size "
    "workers masks seed few_canvases max_pixels allow_outside_root bad_images channels depth "
    "resize_on_device max_detections jitter copy_paste mosaic mixup photometric strong_until semantic "
    "semantic_classes unlabelled maps keypoints flip_pairs keypoint_sigmas"
)
"""As they can be given by position."""


def test_the_data_module_takes_the_settings_of_all_groups_in_their_order():
    order = ORDER.split()
    assert [field.name for field in fields(DataConfig)] == order
    assert list(inspect.signature(CocoDataModule).parameters) == order
    groups = (SplitConfig, SizeConfig, AugmentConfig, LoadConfig, Reading, OtherConfig, StrongConfig, MapConfig)
    groups += (KeypointConfig,)
    assert [field.name for group in groups for field in fields(group)] == order
    module = CocoDataModule("a", short_side=[480, 640], workers=0)
    assert (module.config.root, module.config.short_side, module.config.workers) == ("a", [480, 640], 0)


def test_an_unknown_setting_is_an_error():
    with pytest.raises(TypeError, match="short_sides"):
        CocoDataModule(short_sides=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": []}, r"data.short_side \[\] must be above 0"),
        ({"max_detections": 10}, "max_detections 10 must be above 10"),
        ({"bad_images": -1}, "data.bad_images -1 must be at least 0"),
        ({"max_pixels": 0}, "data.max_pixels 0 at least 1"),
        ({"eval_batch_size": 0}, "eval_batch_size 0 must be at least 1"),
        ({"strong_until": 1.5}, "data.strong_until 1.5 must be a fraction of the training"),
        ({"mixup": MixUp(p=3)}, "data.mixup.p 3 must be a probability"),
        ({"jitter": JitterConfig(), "resize_on_device": True}, "data.resize_on_device must be false with data.jitter"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        CocoDataModule(**options)


def test_only_a_training_replaces_images_and_changes_them():
    config = DataConfig(bad_images=3, crop=(64, 64), short_side=[32, 48], long_side=80)
    assert (config.reading("train").bad_images, config.reading("val").bad_images) == (3, 0)
    assert type(config.reading("train")) is Reading  # which goes to the workers
    assert [type(one) for one in config.transforms("train")] == [RandomCrop, HorizontalFlip, Resize]
    (resize,) = config.transforms("val")
    assert (resize.short_sides, resize.long_side) == ([48], 80)


def test_strong_changes_come_in_their_order_and_end_late():
    strong = {"copy_paste": CopyPaste(), "mosaic": Mosaic(), "mixup": MixUp(), "photometric": PhotometricDistortion()}
    config = DataConfig(jitter=JitterConfig(), **strong)
    kinds = [PhotometricDistortion, Mosaic, LargeScaleJitter, HorizontalFlip, CopyPaste, MixUp]
    assert [type(one) for one in config.transforms("train")] == kinds
    assert [type(one) for one in config.transforms("train", late=True)] == [HorizontalFlip, Resize]
    assert [type(one) for one in config.transforms("val")] == [Resize]
    assert config.is_strong
    assert not DataConfig().is_strong


def test_few_canvases_hold_a_jittered_image_without_waste():
    canvases = DataConfig(jitter=JitterConfig(size=(1024, 1024)), few_canvases=True).canvases
    assert canvas_of([(1024, 1024)], canvases=canvases) == (1024, 1024)

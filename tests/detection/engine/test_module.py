from types import SimpleNamespace

import pytest
import torch

from backbones import BackboneConfig
from detection.engine.data_config import DataConfig
from detection.engine.errors import InputError
from detection.engine.module import DetectionModule
from detection.engine.optim import OptimizerConfig
from detection.engine.schedule import ScheduleConfig
from detection.models.anchors import AnchorConfig
from detection.models.rpn import RPNConfig
from detection.structures import Batch


def test_nothing_is_built_before_the_classes_are_known():
    assert not list(DetectionModule().parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": BackboneConfig("resnet5O")}, "unknown backbone 'resnet5O'; did you mean resnet50"),
        ({"backbone": BackboneConfig("resnet18", freeze=9)}, "freeze is 9"),
        (
            {"rpn": RPNConfig(AnchorConfig(sizes=(32, 64)))},
            "length of sizes is 2, but the number of pyramid levels is 5",
        ),
        ({"optimizer": OptimizerConfig(lr=-0.1)}, "model.optimizer.lr -0.1 .* must not be below 0"),
        ({"schedule": ScheduleConfig(length=0)}, "model.schedule.length 0 .* must be at least 1"),
    ],
)
def test_impossible_settings_are_refused_at_once(options, message):
    with pytest.raises(InputError, match=message):
        DetectionModule(**options)


def test_the_ids_of_images_stay_with_the_host():
    """Which tells them after an error of the device, when nothing can be read there."""
    sizes = torch.tensor([[32, 32]])
    batch = Batch(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), sizes, sizes, torch.tensor([7]))
    moved = DetectionModule().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.images.device.type == "meta"
    assert moved.image_ids.tolist() == [7]


def test_the_same_images_draw_the_same_samples():
    module = DetectionModule()
    first, again, other = (torch.rand(3, generator=module._generator(key)) for key in ((1, 2), (1, 2), (2, 1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_learning_rate_finder_sets_what_the_schedule_multiplies():
    module = DetectionModule(optimizer=OptimizerConfig(lr=0.02), schedule=ScheduleConfig(reference_batch=16))
    scheduler = SimpleNamespace(base_lrs=[0.01, 0.005])
    module._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(config=DataConfig(batch_size=8)),
        lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler)],
    )
    assert module.lr == pytest.approx(0.01)
    module.lr = 0.002
    assert module.lr == pytest.approx(0.002)
    assert module.optimizer_config.lr == pytest.approx(0.004)
    assert scheduler.base_lrs == pytest.approx([0.002, 0.001])

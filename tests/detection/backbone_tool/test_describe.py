import pytest
import torch
from torch import nn

from backbones import Backbone, BackboneConfig, build
from detection.backbone_tool.describe import costs, describe, receptive_fields


def test_multiply_adds_are_those_of_the_papers():
    # Published for a 224 x 224 image, in units of 10^9; less the classifier's 512 or 2048 x 1000.
    for name, published in (("resnet18", 1.814), ("resnet34", 3.664), ("resnet50", 4.089), ("vgg16", 15.347)):
        assert costs(name, 224, 224).multiply_adds / 1e9 == pytest.approx(published, abs=0.005)


class Two(Backbone):
    """Convolutions of 3 with stride 2 and of 5 with stride 2: cells see 3, and 3 + 4 * 2 = 11 pixels."""

    channels, strides = (2, 2), (2, 4)

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 3, 2, 1), nn.Conv2d(2, 2, 5, 2, 2)

    def forward(self, images):
        first = self.first(images)
        return first, self.second(first)


@pytest.mark.slow
def test_receptive_fields_are_those_worked_out_by_hand():
    assert receptive_fields(Two(), (8, 64)) == [3, 11]
    # stem 7 / 2, pool 3 / 2 (11), two blocks of two 3 x 3: 11 + 4 * 2 * 4 = 43; then, by blocks, at 8, 16 and 32:
    # 43 + 2 * 4 + 6 * 8 = 99 and so on
    assert receptive_fields(build(BackboneConfig("resnet18")), (32, 1024)) == [43, 99, 211, 435]


def test_a_network_that_pools_over_everything_sees_everything():
    assert receptive_fields(build(BackboneConfig("mobilenet_v3_small")), (32, 256))[-1] is None


def test_memory_is_what_the_backward_pass_reads_and_grows_with_the_area():
    small, large = costs("resnet18", 64, 64), costs("resnet18", 128, 64)
    assert small.parameters == large.parameters == 11_689_512 - 512 * 1000 - 1000
    # besides the maps, a few numbers for each channel
    assert large.activation_bytes == pytest.approx(2 * small.activation_bytes, rel=0.02)
    image, first = 3 * 64 * 64 * 4, 64 * 32 * 32 * 4
    assert small.activation_bytes > image + 2 * first  # the stem's input, and its norm's and pool's


def test_a_config_counts_as_it_is():
    wide, narrow = costs("resnet18", 64, 64), costs(BackboneConfig("resnet18", width=16, weights="imagenet"), 64, 64)
    assert narrow.parameters < wide.parameters / 15  # a quarter of the channels on both sides, but for the image's
    frozen = costs(BackboneConfig("resnet18", freeze=5), 64, 64)
    assert (frozen.parameters, frozen.activation_bytes) == (wide.parameters, 0)
    assert costs(BackboneConfig("resnet18", in_channels=1), 64, 64).parameters == wide.parameters - 2 * 64 * 49


def test_counting_computes_nothing():
    assert costs("resnet152", 20000, 20000).multiply_adds > 1e12


@pytest.mark.slow
def test_the_page_names_stages_as_freeze_does():
    page = describe("resnet10", 64, 64)
    assert all(f"\n{stage} " in page for stage in ("stem", "layer1", "layer4", "C2", "C5"))
    assert torch.is_grad_enabled()

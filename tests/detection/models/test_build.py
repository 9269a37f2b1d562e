import warnings

import pytest

from backbones import BackboneConfig
from detection.models.build import build_detector
from detection.models.factories import faster_rcnn, mask_rcnn


@pytest.mark.parametrize("make", [faster_rcnn, mask_rcnn])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"norm": "frozen"}, r"resnet10 has no weights, and norm frozen would keep random .*norm='group' and freeze=0"),
        ({"freeze": 2}, "freeze 2 would keep random values"),
        ({"norm": "frozen", "freeze": 1}, "norm frozen and freeze 1 would keep random values"),
    ],
)
def test_frozen_parts_of_a_random_backbone_are_reported_in_one_line(make, options, told):
    with pytest.warns(UserWarning, match=told) as caught:
        make(BackboneConfig("resnet10", width=8, **options), num_classes=1)
    assert len(caught) == 1
    assert len(str(caught[0].message).splitlines()) == 1
    assert caught[0].filename == __file__


def test_others_are_built_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask_rcnn(BackboneConfig("resnet10", width=8), num_classes=1)
        build_detector(1, BackboneConfig("resnet10", width=8, norm="frozen"))  # weights may follow, as from a file


def test_the_former_place_of_the_functions_still_works():
    from detection.models import build, factories

    assert build.mask_rcnn is factories.mask_rcnn
    with pytest.raises(AttributeError, match="no attribute mask_rccn"):
        build.mask_rccn  # noqa: B018

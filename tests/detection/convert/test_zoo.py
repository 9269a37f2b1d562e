import pytest
from torchvision.models import get_model_weights

from detection import list_models
from detection.convert import zoo


def test_every_published_detector_is_listed_as_it_is_loaded():
    references = list_models()
    assert len(references) == len(set(references)) == sum(map(len, zoo.ZOO.values()))
    for reference in references:
        origin, name = reference.split(":")
        assert zoo.find(origin, name).url.startswith("https://")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("maskrcnn_*_v2", ["torchvision:maskrcnn_resnet50_fpn_v2"]),
        ("detectron2:mask_rcnn_R_50_FPN_?x", [f"detectron2:mask_rcnn_R_50_FPN_{k}x" for k in (1, 3)]),
        ("nothing", []),
    ],
)
def test_a_pattern_is_for_the_name_or_the_whole_reference(pattern, found):
    assert list_models(pattern) == found


def test_the_entries_of_torchvision_are_those_of_its_own_enums():
    for name, entry in zoo.TORCHVISION.items():
        weights = get_model_weights(name).DEFAULT
        metrics = weights.meta["_metrics"]["COCO-val2017"]
        assert (entry.url, entry.box_ap) == (weights.url, metrics["box_map"])
        assert entry.mask_ap == metrics.get("mask_map")

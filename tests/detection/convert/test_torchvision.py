import re

import pytest
import torch
import torchvision

from detection.convert import from_torchvision, to_torchvision, torchvision_config
from detection.models.build import build_detector
from detection.models.roi_linear import as_linear

KINDS = [
    ("fasterrcnn_resnet50_fpn", 1),
    ("maskrcnn_resnet50_fpn", 1),
    ("fasterrcnn_resnet50_fpn_v2", 2),
    ("maskrcnn_resnet50_fpn_v2", 2),
]


def build(kind: str) -> torch.nn.Module:
    with torch.device("meta"):
        model = getattr(torchvision.models.detection, kind)(weights=None, weights_backbone=None, num_classes=5)
    return model.to_empty(device="cpu")


def number(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every entry another number, so that a swap shows."""
    start, numbered = 0, {}
    for key, value in state.items():
        numbered[key] = torch.arange(start, start + value.numel(), dtype=value.dtype).view(value.shape)
        start += value.numel()
    return numbered


@pytest.mark.parametrize(("kind", "version"), KINDS)
def test_every_key_is_consumed_and_none_invented(kind, version):
    ours = from_torchvision(build(kind).state_dict())
    config = torchvision_config(version, masks=kind.startswith("mask"))
    with torch.device("meta"):
        expected = as_linear(build_detector(4, **vars(config)).state_dict())
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize(("kind", "version"), KINDS)
def test_the_round_trip_is_bit_equal(kind, version):
    theirs = number(build(kind).state_dict())
    ours = from_torchvision(theirs)
    back = to_torchvision(ours, version)
    assert set(back) == set(theirs)
    again = from_torchvision(back)
    assert all(torch.equal(again[key], ours[key]) for key in ours)
    heads = ("bbox_pred", "mask_fcn_logits")  # the background's rows have no place here
    for key, value in theirs.items():
        if key.startswith("roi_heads") and any(head in key for head in heads):
            rows = 4 if "bbox_pred" in key else 1
            assert torch.equal(back[key][rows:], value[rows:])
        else:
            assert torch.equal(back[key], value), key


def test_classes_are_picked_and_the_background_goes_last():
    theirs = number(build("maskrcnn_resnet50_fpn").state_dict())
    ours = from_torchvision(theirs, labels=[3, 1])
    logits = theirs["roi_heads.box_predictor.cls_score.bias"]
    assert torch.equal(ours["box_head.logits.bias"], logits[[3, 1, 0]])
    deltas = theirs["roi_heads.box_predictor.bbox_pred.bias"]
    assert torch.equal(ours["box_head.deltas.bias"], torch.cat([deltas[12:16], deltas[4:8]]))
    assert torch.equal(
        ours["mask_head.logits.weight"], theirs["roi_heads.mask_predictor.mask_fcn_logits.weight"][[3, 1]]
    )


def test_a_foreign_key_is_named():
    with pytest.raises(ValueError, match=r"torchvision weights: decoder\.weight do not belong to"):
        from_torchvision({"decoder.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    "kind", [pytest.param("maskrcnn_resnet50_fpn", marks=pytest.mark.slow), "fasterrcnn_mobilenet_v3_large_fpn"]
)
def test_published_files_of_the_first_years_have_other_names(kind):
    theirs = build(kind)
    new = number(theirs.state_dict())
    old = {
        re.sub(
            r"(inner_blocks|layer_blocks)\.(\d)\.0\.",
            r"\1.\2.",
            re.sub(
                r"mask_head\.(\d)\.0\.",
                lambda match: f"mask_head.mask_fcn{int(match[1]) + 1}.",
                key.replace("rpn.head.conv.0.0.", "rpn.head.conv."),
            ),
        ): value
        for key, value in new.items()
    }
    assert set(old) != set(new)
    theirs.load_state_dict(old)  # torchvision renames them as it loads
    assert all(torch.equal(theirs.state_dict()[key], value) for key, value in new.items())
    ours, expected = from_torchvision(old), from_torchvision(new)
    assert set(ours) == set(expected)
    assert all(torch.equal(ours[key], value) for key, value in expected.items())

"""Names of other tools' one-stage weights in this toolkit; tests/end_to_end compares torchvision's results."""

import pytest
import torch
import torchvision
from torch import Tensor

from backbones import BackboneConfig
from detection.categories import Categories
from detection.convert.classes import transfer_classes
from detection.convert.detectron2 import from_detectron2
from detection.convert.export import save_torchvision
from detection.convert.one_stage import from_torchvision_one_stage, is_fcos, is_one_stage
from detection.convert.pretrained import load_pretrained
from detection.convert.settings import (
    detectron2_retinanet_config,
    torchvision_fcos_config,
    torchvision_retinanet_config,
)
from detection.models.build import build_detector
from detection.models.fcos import FCOSConfig
from detection.models.fpn import FPNConfig

CONFIGS = {
    "retinanet_resnet50_fpn": torchvision_retinanet_config(1),
    "retinanet_resnet50_fpn_v2": torchvision_retinanet_config(2),
    "fcos_resnet50_fpn": torchvision_fcos_config(),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_torchvisions_names_fill_our_detector(kind):
    with torch.device("meta"):
        theirs = getattr(torchvision.models.detection, kind)(weights=None, weights_backbone=None, num_classes=5)
        ours = build_detector(4, **vars(CONFIGS[kind])).state_dict()
    assert is_one_stage(theirs.state_dict())
    assert is_fcos(theirs.state_dict()) == kind.startswith("fcos")
    found = from_torchvision_one_stage(theirs.state_dict())
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in ours.items()}


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_goes_to_torchvision_fits_its_detector_and_comes_back(kind, tmp_path):
    """Its background, one more class there, has a score of zero whatever the features are."""
    torch.manual_seed(0)
    with torch.device("meta"):
        theirs = getattr(torchvision.models.detection, kind)(weights=None, weights_backbone=None, num_classes=5)
    ours = build_detector(4, **vars(CONFIGS[kind]))
    torch.nn.init.normal_(ours.head.logits.bias)
    save_torchvision(ours, tmp_path / "ours.pth")
    written = torch.load(tmp_path / "ours.pth", weights_only=True)
    theirs.load_state_dict(written, assign=True)
    rows = written["head.classification_head.cls_logits.weight"].unflatten(0, (-1, 5))
    assert (rows[:, 0] == 0).all()
    assert (theirs.head.classification_head.cls_logits.bias.unflatten(0, (-1, 5))[:, 0].sigmoid() < 1e-8).all()
    again, state = from_torchvision_one_stage(written), ours.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in again.items())


def test_an_fcos_that_torchvision_does_not_have_is_not_written_for_it(tmp_path):
    small = {
        "backbone": BackboneConfig("resnet10", norm="batch", width=8),
        "fpn": FPNConfig(channels=16, finest=3, extra="conv"),
    }
    with pytest.raises(ValueError, match=r"does not have these parts; .*head\.scales"):
        save_torchvision(build_detector(2, fcos=FCOSConfig(), **small), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"model\.fcos\.offset 0\.5; export it as safetensors"):
        save_torchvision(build_detector(2, fcos=FCOSConfig(level_scales=False), **small), tmp_path / "a.pth")


def test_names_from_before_torchvision_0_13_are_known():
    with torch.device("meta"):
        state = torchvision.models.detection.retinanet_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=5
        ).state_dict()
    old = {}
    for name, value in state.items():
        for block in range(4):
            name = name.replace(f"_head.conv.{block}.0.", f"_head.conv.{2 * block}.!")
        old[name.replace("!", "").replace("_blocks.0.0.", "_blocks.0.").replace("_blocks.1.0.", "_blocks.1.")] = value
    assert from_torchvision_one_stage(old).keys() == from_torchvision_one_stage(state).keys()


def detectron2_state(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our RetinaNet under detectron2's names, its anchors by size and then by shape."""
    theirs = {"pixel_mean": torch.zeros(3, 1, 1), "anchor_generator.cell_anchors.0": torch.zeros(9, 4)}
    for name, value in ours.items():
        part, _, rest = name.partition(".")
        if part == "fpn":
            kind, level, *_, last = rest.split(".")
            to = f"top_block.p{6 + int(level)}" if kind == "extra" else f"fpn_{kind}{3 + int(level)}"
            theirs[f"backbone.{to}.{last}"] = value
        elif part == "head":
            layer, _, last = rest.partition(".")
            to = {"class_convs": "cls_subnet", "box_convs": "bbox_subnet", "logits": "cls_score", "deltas": "bbox_pred"}
            if layer in ("logits", "deltas"):
                value = value.unflatten(0, (3, 3, -1)).transpose(0, 1).flatten(0, 2)
            theirs[f"head.{to[layer]}.{last}"] = value
        else:
            theirs["backbone.bottom_up." + of_resnet(rest)] = value
    return theirs


def of_resnet(name: str) -> str:
    for ours, theirs in (("bn1.", "conv1.norm."), ("bn2.", "conv2.norm."), ("bn3.", "conv3.norm.")):
        name = name.replace(ours, theirs)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    if not name.startswith("layer"):
        return "stem." + name
    return f"res{int(name[5]) + 1}" + name[6:]


def test_detectron2s_names_and_order_of_anchors_become_ours(tmp_path):
    torch.manual_seed(0)
    config = detectron2_retinanet_config()
    model = build_detector(4, **vars(config))
    torch.nn.init.normal_(model.head.logits.bias)
    ours = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    theirs = detectron2_state(ours)
    found = from_detectron2(theirs, rgb=True)
    assert found.keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in found.items())
    torch.save({"model": theirs}, tmp_path / "model_final.pth")
    loaded = load_pretrained(str(tmp_path / "model_final.pth"))
    assert (loaded.num_classes, loaded.resize, loaded.config) == (4, "pillow", config)
    assert torch.equal(loaded.state["backbone.conv1.weight"], ours["backbone.conv1.weight"].flip(1))


def test_anchors_lie_as_detectron2s_by_shape_then_by_size():
    cells = build_detector(1, **vars(detectron2_retinanet_config())).head.anchors.cells[0]
    side = (cells[:, 2:] - cells[:, :2]).prod(dim=1).sqrt()
    ratio = (cells[:, 3] - cells[:, 1]) / (cells[:, 2] - cells[:, 0])
    torch.testing.assert_close(side, torch.tensor([32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]).repeat(3))
    torch.testing.assert_close(ratio, torch.tensor([0.5, 1, 2]).repeat_interleave(3))


def test_rows_of_each_anchor_go_with_the_names():
    theirs, ours = Categories(("cat", "dog"), (1, 2)), Categories(("dog", "emu", "Cat"), (1, 2, 3))
    state = {"head.logits.bias": torch.tensor([10.0, 11, 20, 21]), "head.deltas.bias": torch.zeros(8)}
    initial = {"head.logits.bias": torch.full((6,), -1.0), "head.deltas.bias": torch.zeros(8)}
    carried, report = transfer_classes(state, theirs, initial, ours)
    assert carried["head.logits.bias"].tolist() == [11, -1, 10, 21, -1, 20]
    assert report.initialised == ("emu",)

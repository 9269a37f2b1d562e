"""Weights of detectron2's PointRend: every tensor and every setting, other classes; no weights lie here."""

import pytest
import torch
from torch import Tensor

from detection import pointrend
from detection.categories import Categories
from detection.convert.export import save_safetensors, save_torchvision
from detection.convert.pretrained import coco_categories, initialise, load_pretrained
from detection.models.build import build_detector
from detection.models.mask_head import MaskHeadConfig
from detection.models.point_head import PointHeadConfig, PointRend
from detection.models.roi_linear import as_linear

PLACES = {
    "coarse_head.reduce_spatial_dim_conv": "coarse.shrink",
    "coarse_head.fc1": "coarse.fcs.0",
    "coarse_head.fc2": "coarse.fcs.1",
    "coarse_head.prediction": "coarse.logits",
    "point_head.fc1": "point.layers.0",
    "point_head.fc2": "point.layers.1",
    "point_head.fc3": "point.layers.2",
    "point_head.predictor": "point.logits",
}
OLDER = {
    "coarse_head.fc": "coarse_head.coarse_mask_fc",
    "mask_head.coarse_": "mask_coarse_",
    "mask_head.point_": "mask_point_",
}
"""Names before version 2 of these heads."""


def older(name: str) -> str:
    for new, old in OLDER.items():
        name = name.replace(new, old)
    return name


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["50", pytest.param("X101", marks=pytest.mark.slow)])
@pytest.mark.parametrize("spelled", [str, pytest.param(older, marks=pytest.mark.slow)])
def test_every_tensor_of_detectron2_finds_its_place(detectron2_state, tmp_path, depth, spelled):
    state = detectron2_state(depth, masks=False, device="cpu", points=True)
    torch.save({"model": {spelled(name): value for name, value in state.items()}}, tmp_path / "model.pth")
    found = load_pretrained(str(tmp_path / "model.pth"))  # its origin shows in its keys
    expected = as_linear(build_detector(80, **vars(found.config)).state_dict())
    assert {name: value.shape for name, value in found.state.items()} == {n: v.shape for n, v in expected.items()}
    assert len(found.state) == len(state) - 7  # anchors of five levels, pixel_mean, pixel_std
    for theirs, ours in PLACES.items():
        for kind in ("weight", "bias"):
            value, place = state[f"roi_heads.mask_head.{theirs}.{kind}"], f"point_head.{ours}.{kind}"
            assert torch.equal(found.state[place], value.view(expected[place].shape))
    config = found.config
    assert config.backbone.stride_in_1x1 == (depth == "50")
    assert config.point_head == PointHeadConfig()
    assert (config.mask_head, config.box_head.sampling_ratio) == (None, 0)
    assert (found.categories, found.resize) == (coco_categories(), "pillow")


def test_another_number_of_classes_has_no_names(detectron2_state, tmp_path):
    torch.save({"model": detectron2_state(masks=False, classes=8, device="cpu", points=True)}, tmp_path / "model.pth")
    found = load_pretrained(str(tmp_path / "model.pth"))
    assert (found.num_classes, found.categories) == (8, None)


def small(*names: str, **changes: object) -> PointRend:
    torch.manual_seed(len(names))
    head = PointHeadConfig(channels=16, hidden=16, layer_channels=16, coarse=3, resolution=6, **changes)
    return pointrend("resnet10", point_head=head, categories=Categories(names, tuple(range(1, len(names) + 1)))).eval()


def test_files_hold_the_whole_detector(tmp_path):
    model = small("cat", "dog")
    save_safetensors(model, tmp_path / "a.safetensors")
    again = load_pretrained(str(tmp_path / "a.safetensors")).build()
    assert type(again) is PointRend
    assert (again.configs, again.categories) == (model.configs, model.categories)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="torchvision's layout does not have these parts"):
        save_torchvision(model, tmp_path / "a.pth")


def decide(model: PointRend) -> None:
    for layer in (model.point_head.coarse.logits, model.point_head.point.logits):
        torch.nn.init.normal_(layer.weight, std=0.5)
        torch.nn.init.normal_(layer.bias, std=0.5)


@torch.no_grad()
def masks_of(model: PointRend, label: int, keep: list[int]) -> Tensor:
    """Mask logits of one class, if only the classes to keep have coarse masks."""
    features, boxes = (
        [torch.randn(1, 256, 16, 16, generator=torch.Generator().manual_seed(0))],
        torch.tensor([[5.0, 5, 50, 40]]),
    )
    head = model.point_head
    coarse = head.coarse_masks

    def kept(*arguments: Tensor) -> Tensor:
        every = coarse(*arguments)
        return torch.zeros_like(every).index_copy(1, torch.tensor(keep), every[:, keep])

    head.coarse_masks = kept
    try:
        return head(features, boxes, torch.tensor([0]), torch.tensor([label]))
    finally:
        del head.coarse_masks


@pytest.mark.slow
def test_classes_of_the_same_name_keep_their_masks(tmp_path):
    theirs, ours = small("cat", "dog", "bird"), small("cow", "Bird", "cat", "sheep")
    decide(theirs)
    decide(ours)
    save_safetensors(theirs, tmp_path / "a.safetensors")
    report = initialise(ours, str(tmp_path / "a.safetensors"))
    assert "2 of 4 classes copied by name" in report
    for old, new in ((0, 2), (2, 1)):
        torch.testing.assert_close(masks_of(ours, new, [1, 2]), masks_of(theirs, old, [0, 2]))
    assert not torch.equal(masks_of(ours, 0, [1, 2]), masks_of(ours, 1, [1, 2]))
    assert initialise(small("a", "b", "c"), str(tmp_path / "a.safetensors")).count("initialised randomly: a, b, c") == 1


@pytest.mark.slow
def test_a_coarse_mask_of_another_size_is_reported(tmp_path):
    save_safetensors(small("cat", "dog", "bird"), tmp_path / "a.safetensors")
    other = pointrend("resnet10", categories=Categories(("cat",), (1,)))
    with pytest.raises(ValueError, match="point_head"):
        initialise(other, str(tmp_path / "a.safetensors"))


@pytest.mark.slow
def test_a_mask_rcnn_and_a_pointrend_start_from_each_other(tmp_path):
    model = small("cat", "dog")
    save_safetensors(model, tmp_path / "points.safetensors")
    parts = {name: config for name, config in model.configs.items() if name not in ("mask_head", "point_head")}
    masks = build_detector(2, **parts, mask_head=MaskHeadConfig(convs=1, channels=16))
    masks.categories = model.categories
    report = initialise(masks, str(tmp_path / "points.safetensors"))
    assert "mask head initialised randomly, as the weights have none" in report
    assert "point head not used, as the model has none" in report
    assert torch.equal(masks.box_head.logits.weight, model.box_head.logits.weight)
    save_safetensors(masks, tmp_path / "masks.safetensors")
    assert "point head initialised randomly" in initialise(small("cat", "dog"), str(tmp_path / "masks.safetensors"))

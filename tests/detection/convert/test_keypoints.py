"""Weights of detectron2's and torchvision's Keypoint R-CNNs: every tensor and every setting; no weights lie here."""

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights, keypointrcnn_resnet50_fpn

from detection import keypoint_rcnn
from detection.categories import Categories, Skeleton
from detection.convert.export import save_safetensors, save_torchvision
from detection.convert.pretrained import coco_person, initialise, load_pretrained
from detection.convert.torchvision import from_torchvision, to_torchvision
from detection.models.build import build_detector
from detection.models.keypoint_head import KeypointHeadConfig, KeypointRCNN
from detection.models.roi_linear import as_linear


def shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "name"), [("50", "resnet50"), pytest.param("101", "resnet101", marks=pytest.mark.slow)]
)
def test_every_tensor_of_detectron2_finds_its_place(detectron2_state, tmp_path, depth, name):
    state = detectron2_state(depth, masks=False, classes=1, device="cpu", keypoints=17)
    torch.save({"model": state}, tmp_path / "model.pth")
    found = load_pretrained(str(tmp_path / "model.pth"))  # its origin shows in its keys
    expected = as_linear(build_detector(1, **vars(found.config)).state_dict())
    assert shapes(found.state) == shapes(expected)
    assert len(found.state) == len(state) - 7  # anchors of five levels, pixel_mean, pixel_std
    for i in range(8):
        theirs = state[f"roi_heads.keypoint_head.conv_fcn{i + 1}.weight"]
        assert torch.equal(found.state[f"keypoint_head.convs.{2 * i}.weight"], theirs)
    theirs = state["roi_heads.keypoint_head.score_lowres.weight"]
    assert torch.equal(found.state["keypoint_head.heatmaps.weight"], theirs)
    config = found.config
    assert config.backbone.name == name
    assert config.keypoint_head == KeypointHeadConfig(sampling_ratio=0)
    assert (config.box_head.beta, config.box_head.sampling_ratio) == (0.5, 0)
    assert (config.rpn.proposals_train, config.mask_head) == (1500, None)
    assert (found.categories, found.resize) == (coco_person(), "pillow")


def test_another_number_of_keypoints_has_no_names(detectron2_state, tmp_path):
    state = detectron2_state(masks=False, classes=3, device="cpu", keypoints=5)
    torch.save({"model": state}, tmp_path / "model.pth")
    found = load_pretrained(str(tmp_path / "model.pth"))
    assert (found.config.keypoint_head.keypoints, found.num_classes, found.categories) == (5, 3, None)


def test_cocos_person_is_that_of_torchvision():
    person = coco_person()
    (skeleton,) = person.skeletons
    assert list(skeleton.names) == KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["keypoint_names"]
    assert (person.names, person.ids, len(skeleton.edges)) == (("person",), (1,), 19)
    assert skeleton.to_coco()["skeleton"][0] == [16, 14]  # left ankle, left knee


def test_the_round_trip_to_torchvision_is_bit_equal():
    model = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3, num_keypoints=5)
    theirs, start = {}, 0
    for key, value in model.state_dict().items():
        theirs[key] = torch.arange(start, start + value.numel(), dtype=value.dtype).view(value.shape)
        start += value.numel()
    ours = from_torchvision(theirs)
    back = to_torchvision(ours)
    assert shapes(back) == shapes(theirs)
    for key, value in theirs.items():
        rows = 4 if "bbox_pred" in key else 0  # the background has no box here
        assert torch.equal(back[key][rows:] if rows else back[key], value[rows:] if rows else value), key


def small(
    keypoints: int = 3, norm: str | None = None, names: tuple[str, ...] = ("nose", "left", "right")
) -> KeypointRCNN:
    head = KeypointHeadConfig(keypoints=keypoints, convs=1, channels=16, norm=norm)
    model = keypoint_rcnn("resnet10", keypoint_head=head, num_classes=1)
    model.categories = Categories(("cat",), (4,), (Skeleton(names),))
    return model.eval()


@pytest.mark.slow
def test_files_hold_the_whole_detector(tmp_path):
    model = small()
    save_safetensors(model, tmp_path / "a.safetensors")
    again = load_pretrained(str(tmp_path / "a.safetensors")).build()
    assert type(again) is KeypointRCNN
    assert (again.configs, again.categories) == (model.configs, model.categories)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    save_torchvision(model, tmp_path / "a.pth")
    assert "roi_heads.keypoint_predictor.kps_score_lowres.weight" in torch.load(tmp_path / "a.pth", weights_only=True)
    with pytest.raises(ValueError, match="torchvision's layout does not have these parts"):
        save_torchvision(small(norm="batch"), tmp_path / "b.pth")


@pytest.mark.slow
def test_weights_start_another_training(tmp_path):
    save_safetensors(small(), tmp_path / "a.safetensors")
    same, other = small(), small(2, names=("nose", "tail"))
    assert initialise(same, str(tmp_path / "a.safetensors")).endswith("the class")
    report = initialise(other, str(tmp_path / "a.safetensors"))
    assert "heatmaps initialised randomly, as the weights have another number of keypoints" in report
    weights = load_pretrained(str(tmp_path / "a.safetensors")).state
    for model in (same, other):
        assert torch.equal(model.keypoint_head.convs[0].weight, weights["keypoint_head.convs.0.weight"])
    boxes = build_detector(1, **{k: v for k, v in small().configs.items() if k != "keypoint_head"}).eval()
    assert "keypoint head not used" in initialise(boxes, str(tmp_path / "a.safetensors"))
    save_safetensors(boxes, tmp_path / "boxes.safetensors")
    assert "keypoint head initialised randomly" in initialise(small(), str(tmp_path / "boxes.safetensors"))

"""References of models, lists of classes, and error messages for files that do not fit."""

import weakref
from pathlib import Path

import pytest
import torch
import torchvision

from backbones import BackboneConfig
from detection.categories import Categories
from detection.checkpoint import load_weights, save_model
from detection.convert import zoo
from detection.convert.export import save_safetensors, save_torchvision
from detection.convert.pretrained import coco_categories, initialise, load_pretrained
from detection.inference import load_model
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig

CONFIGS = {
    "backbone": BackboneConfig("resnet10", width=8),
    "fpn": FPNConfig(channels=16),
    "box_head": BoxHeadConfig(hidden=16),
    "mask_head": MaskHeadConfig(convs=1, channels=8),
}


def small(names=("cat", "dog"), masks=True, seed=0):
    torch.manual_seed(seed)
    model = build_detector(len(names), **{**CONFIGS, "mask_head": CONFIGS["mask_head"] if masks else None})
    model.categories = Categories(tuple(names), tuple(range(1, len(names) + 1)))
    return model


@pytest.fixture
def saved(tmp_path):
    model = small()
    model.test_size, model.resize = (320, 640), "pillow"
    save_model(model, tmp_path / "a.ckpt")
    return model, str(tmp_path / "a.ckpt")


def test_our_checkpoint_is_a_reference_like_any_other(saved):
    model, path = saved
    again = load_model(path)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    assert (again.categories, again.test_size, again.resize) == (model.categories, (320, 640), "pillow")


def test_safetensors_carry_everything(saved, tmp_path):
    model, _ = saved
    save_safetensors(model, tmp_path / "a.safetensors")
    again = load_model(tmp_path / "a.safetensors")
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    assert (again.categories, again.test_size, again.resize) == (model.categories, (320, 640), "pillow")
    assert not list(tmp_path.glob(".*partial"))


def test_a_file_that_changed_is_read_again(saved, tmp_path):
    model, path = saved
    load_model(path)
    with torch.no_grad():
        model.box_head.logits.bias.fill_(7)
    save_model(model, path)
    assert load_model(path).box_head.logits.bias[0] == 7


def test_nothing_of_a_file_is_kept_but_the_model(saved):
    found = load_pretrained(saved[1])
    weight = weakref.ref(found.state["box_head.logits.bias"])
    del found
    assert weight() is None


def test_a_damaged_file_is_rejected(saved):
    path = Path(saved[1])
    whole = path.read_bytes()
    weights = saved[0].backbone.conv1.weight.detach().numpy().tobytes()
    place = whole.index(weights[:64]) + 3
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
    with pytest.raises(ValueError, match=r"a\.ckpt: the file is damaged .the checksum of .* differs"):
        load_model(path)
    with pytest.raises(ValueError, match=r"a\.ckpt: the file is damaged"):
        load_weights(small(), path)


@pytest.mark.slow
def test_torchvision_reads_what_we_write(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    save_torchvision(load_model(f"torchvision:{tmp_path / 'theirs.pth'}"), tmp_path / "ours.pth")
    back = torch.load(tmp_path / "ours.pth", weights_only=True)
    theirs.load_state_dict(back)  # all keys, all shapes
    again = load_model(f"torchvision:{tmp_path / 'ours.pth'}").state_dict()
    first = load_model(f"torchvision:{tmp_path / 'theirs.pth'}").state_dict()
    assert all(torch.equal(again[key], value) for key, value in first.items())


def test_the_91_labels_become_the_80_classes(tmp_path):
    with torch.device("meta"):
        theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in theirs.state_dict().items()}
    state["roi_heads.box_predictor.cls_score.bias"] = torch.arange(91.0)
    torch.save(state, tmp_path / "theirs.pth")
    found = load_pretrained(f"torchvision:{tmp_path / 'theirs.pth'}")
    assert found.num_classes == len(found.categories) == 80
    # A label of torchvision's is COCO's category id; the background, 0 there, is last here.
    assert found.state["box_head.logits.bias"].tolist() == [*found.categories.ids, 0]
    named = dict(zip(found.categories.ids, found.categories.names, strict=True))
    assert (named[1], named[13], named[90], 12 in named) == ("person", "stop sign", "toothbrush", False)


@pytest.mark.slow
def test_the_published_file_of_the_first_version_has_no_epsilon(tmp_path):
    with torch.device("meta"):
        theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = {
        key: torch.zeros(value.shape)
        for key, value in theirs.state_dict().items()
        if not key.endswith("num_batches_tracked")  # norms of trained ones are frozen
    }
    for name, eps in (("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 0.0), ("mine.pth", None)):
        torch.save(state, tmp_path / name)
        backbone = load_pretrained(f"torchvision:{tmp_path / name}").config.backbone
        assert (backbone.norm, backbone.norm_eps) == ("frozen", eps)
    with torch.device("meta"):
        model = build_detector(2, BackboneConfig("resnet10", norm="frozen", norm_eps=0.0))
    assert {module.eps for module in model.backbone.modules() if hasattr(module, "eps")} == {0.0}


def test_classes_are_carried_over_by_name(saved):
    trained, path = saved
    model = small(("dog", "bird"), seed=1)
    fresh = model.box_head.logits.bias.clone(), model.box_head.logits.weight.clone()
    report = initialise(model, path)
    assert report.endswith("1 of 2 classes copied by name; initialised randomly: bird; not used: cat")
    weight = model.box_head.logits.weight
    assert torch.equal(weight[0], trained.box_head.logits.weight[1])
    assert torch.equal(weight[1], fresh[1][1])
    assert torch.equal(weight[2], trained.box_head.logits.weight[2])
    assert torch.equal(model.backbone.conv1.weight, trained.backbone.conv1.weight)


def test_a_mask_head_may_come_or_go(saved, tmp_path):
    trained, path = saved
    without = small(masks=False, seed=1)
    assert "mask head not used" in initialise(without, path)
    save_model(without, tmp_path / "b.ckpt")
    model = small(("dog", "bird", "cat"), seed=2)
    fresh = model.mask_head.logits.weight.clone()
    assert "mask head initialised" in initialise(model, str(tmp_path / "b.ckpt"))
    assert torch.equal(model.mask_head.logits.weight, fresh)
    assert torch.equal(model.box_head.logits.weight[2], trained.box_head.logits.weight[0])


@pytest.mark.slow
def test_weights_without_names_need_as_many_classes(tmp_path, mmdetection_state):
    torch.save({"state_dict": mmdetection_state(classes=3, masks=False, device="cpu")}, tmp_path / "a.pth")
    found = load_pretrained(str(tmp_path / "a.pth"))
    model = found.build()
    model.categories = Categories(("a", "b", "c"), (1, 2, 3))
    assert "in the order of the annotations, as the weights have no names" in initialise(model, str(tmp_path / "a.pth"))
    model = build_detector(2, **vars(found.config))
    model.categories = Categories(("a", "b"), (1, 2))
    with pytest.raises(ValueError, match="has 3 classes without names, but the annotations have 2"):
        initialise(model, str(tmp_path / "a.pth"))


@pytest.mark.parametrize(("theirs", "ours"), [("batch", "frozen"), ("frozen", "batch")])
def test_batch_norms_and_frozen_ones_take_each_others_weights(tmp_path, theirs, ours):
    configs = CONFIGS | {"backbone": BackboneConfig("resnet10", norm=theirs, width=8)}
    trained = build_detector(2, **configs)
    trained.backbone.bn1.running_mean.fill_(3)
    if theirs == "batch":
        trained.backbone.bn1.num_batches_tracked.fill_(100)
    save_model(trained, tmp_path / "a.ckpt")
    model = build_detector(2, **{**configs, "backbone": BackboneConfig("resnet10", norm=ours, width=8)})
    initialise(model, str(tmp_path / "a.ckpt"))
    assert (model.backbone.bn1.running_mean == 3).all()
    assert ours == "frozen" or model.backbone.bn1.num_batches_tracked == 0


def test_other_norms_are_still_reported(tmp_path):
    configs = CONFIGS | {"backbone": BackboneConfig("resnet10", norm="group", width=8)}
    save_model(build_detector(2, **configs), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"lacks backbone\.bn1\.running_mean"):
        initialise(small(), str(tmp_path / "a.ckpt"))


def test_a_model_of_another_shape_gets_the_keys(saved):
    _, path = saved
    torch.manual_seed(0)
    other = build_detector(2, **{**CONFIGS, "fpn": FPNConfig(channels=8)})
    other.categories = Categories(("cat", "dog"), (1, 2))
    with pytest.raises(ValueError, match=r"has other shapes: fpn\.lateral\.0\.0\.weight .* same model settings"):
        initialise(other, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("neck.fpn_convs.1.conv.bias"), r"lacks fpn\.output\.1\.0\.bias"),
        (lambda s: s.update({"neck.more.weight": torch.zeros(1)}), r"neck\.more\.weight do not belong to"),
        pytest.param(
            lambda s: s["backbone.bn1.running_var"].fill_(torch.nan),
            r"NaN or Inf in backbone\.bn1\.running_var",
            marks=pytest.mark.slow,
        ),
        (lambda s: s.update({"rpn_head.rpn_reg.bias": torch.zeros(8)}), r"has other shapes: rpn\.deltas\.bias"),
        pytest.param(
            lambda s: s.pop("backbone.layer3.5.conv1.weight"),
            r"lacks backbone\.layer3\.5\.conv1\.weight",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_altered_file_is_reported(tmp_path, mmdetection_state, change, message):
    state = mmdetection_state(masks=False, device="cpu")
    change(state)
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(f"mmdetection:{tmp_path / 'a.pth'}")
    assert "\n" not in str(error.value)


def test_our_weights_alone_get_a_hint_how_to_save_them(tmp_path):
    torch.save(small().state_dict(), tmp_path / "a.pth")
    torch.save({"state_dict": {f"model.{k}": v for k, v in small().state_dict().items()}}, tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(ValueError, match=rf"{name}: .* write the file with detection\.checkpoint\.save_model$"):
            load_pretrained(str(tmp_path / name))


def test_a_backbone_alone_is_no_detector(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=r"not an R-CNN, RetinaNet or FCOS .* use model\.backbone\.weights"):
        load_pretrained(str(tmp_path / "resnet18.pth"))
    with pytest.raises(ValueError, match=r"lacks roi_heads\.box_predictor.* not an R-CNN of torchvision"):
        load_pretrained(f"torchvision:{tmp_path / 'resnet18.pth'}")


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean torchvision:maskrcnn_resnet50_fpn_v2\?"):
        load_pretrained("torchvision:mask_rcnn_resnet50_fpn_v2")
    with pytest.raises(ValueError, match=r"did you mean detectron2:mask_rcnn_R_50_FPN_3x\?"):
        load_pretrained("detectron2:mask_rcnn_R50_FPN_3x")


def test_without_a_network_the_place_of_the_file_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(url, target):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError, match=r"no route to host.*put it at .*mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6"):
        load_pretrained("mmdetection:mask_rcnn_r50_fpn_1x_coco")


def test_a_file_with_another_checksum_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def wrong(url, target):
        with open(target, "w") as file:
            file.write("<html>")

    monkeypatch.setattr(torch.hub, "download_url_to_file", wrong)
    with pytest.raises(ValueError, match=r"checksum .* instead of f10217"):
        load_pretrained("detectron2:mask_rcnn_R_50_FPN_3x")
    assert not list((tmp_path / "checkpoints").iterdir())


def test_every_entry_has_a_file_of_its_own():
    entries = [entry for origin in zoo.ZOO.values() for entry in origin.values()]
    assert len({entry.cache for entry in entries}) == len(entries) == 66
    for entry in entries:
        assert (entry.mask_ap is not None) == any(
            word in entry.url.lower() for word in ("mask", "panoptic", "pointrend")
        )
    assert zoo.TORCHVISION["maskrcnn_resnet50_fpn_v2"].box_ap == 47.4
    assert len(coco_categories()) == 80

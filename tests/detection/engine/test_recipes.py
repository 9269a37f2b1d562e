"""The long recipes: parameters, groups, rates at given steps; and two steps of each on drawn shapes, made small."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from backbones import BackboneConfig, build, vitdet
from detection.engine.configs import list_configs, read_config
from detection.engine.module import DetectionModule
from detection.engine.optim import build_optimizer, parameter_groups
from detection.engine.schedule import describe_scaling, limits, plan
from detection.engine.settings import read_settings
from detection.models.build import build_detector

ROOT = Path(__file__).resolve().parents[3]
COCO_IMAGES = 117266
"""Images of train2017 with an object."""

COUNTS = {
    # Computed here; test_the_counts_of_torchvision compares the first ones with what torchvision published.
    "faster_rcnn_r50_fpn_v2_400ep_coco": 43_656_928,
    "mask_rcnn_r50_fpn_v2_400ep_coco": 46_301_232,
    "mask_rcnn_r50_fpn_lsj_100ep_coco": 46_301_232,
    "mask_rcnn_r50_fpn_copy_paste_270k_coco": 46_301_232,
    "mask_rcnn_r101_fpn_lsj_400ep_coco": 65_293_360,  # 18,992,128 more, as from torchvision's resnet50 to resnet101
    "mask_rcnn_regnetx_4gf_fpn_lsj_400ep_coco": 43_140_848,
    "mask_rcnn_regnety_4gf_fpn_lsj_400ep_coco": 41_859_336,
    "faster_rcnn_r50_fpn_rsb_1x_coco": 41_699_936,
    "mask_rcnn_r50_fpn_rsb_1x_coco": 44_343_216,
    "cascade_mask_rcnn_r50_fpn_rsb_1x_coco": 71_984_926,
    "retinanet_r50_fpn_rsb_1x_coco": 37_915_572,
    "mask_rcnn_vitdet_b_100ep_coco": 110_895_024,
    "mask_rcnn_vitdet_l_100ep_coco": 330_683_632,
    "cascade_mask_rcnn_vitdet_b_100ep_coco": 141_160_222,
    "cascade_mask_rcnn_vitdet_l_100ep_coco": 360_948_830,
    "task_aligned_r18_fpn_300ep_coco": 19_420_884,
    "task_aligned_r50_fpn_300ep_coco": 32_440_532,
    "task_aligned_r101_fpn_300ep_coco": 51_432_660,
    "mask_rcnn_dinov3_convnext_t_3x_coco": 48_092_496,
    "mask_rcnn_dinov3_vit_s_3x_coco": 42_428_240,
}


QUICK = ("mask_rcnn_r50_fpn_v2_400ep_coco", "mask_rcnn_r50_fpn_lsj_100ep_coco", "mask_rcnn_vitdet_b_100ep_coco")


def all_of(names):
    """Parameters of a test: those that are not quick are slow, as reading a recipe takes a second."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@cache
def settings(name):
    return read_settings(["--config", name])[0]


def without_memory(module, classes=80):
    """The detector of a recipe on the meta device, with random weights."""
    configs = module.configs | {"backbone": replace(module.configs["backbone"], weights=None)}
    with torch.device("meta"):
        return build_detector(classes, **configs)


def count(model):
    return sum(p.numel() for p in model.parameters())


def needs_timm(name):
    if any(word in name for word in ("regnet", "rsb", "vitdet", "dinov3")):
        pytest.importorskip("timm")


@pytest.mark.parametrize("name", all_of(COUNTS))
def test_each_recipe_has_its_parameters(name):
    needs_timm(name)
    assert count(without_memory(settings(name))) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("mask_rcnn_r50_fpn_v2_400ep_coco", "MaskRCNN_ResNet50_FPN_V2_Weights"),
        slow("faster_rcnn_r50_fpn_v2_400ep_coco", "FasterRCNN_ResNet50_FPN_V2_Weights"),
        slow("faster_rcnn_r50_fpn_1x_coco", "FasterRCNN_ResNet50_FPN_Weights"),
        slow("mask_rcnn_r50_fpn_1x_coco", "MaskRCNN_ResNet50_FPN_Weights"),
        slow("mask_rcnn_r50_fpn_rsb_1x_coco", "MaskRCNN_ResNet50_FPN_Weights"),
    ],
)
def test_the_counts_of_torchvision(name, theirs):
    """torchvision has 90 classes, and a box (4 x 1025) and a mask (257) of the background, which nobody reads."""
    needs_timm(name)
    from torchvision.models import detection

    published = getattr(detection, theirs).COCO_V1.meta["num_params"]
    background = 4 * 1025 + (257 if name.startswith("mask") else 0)
    assert count(without_memory(settings(name), classes=90)) + background == published


def test_vitdet_has_the_parameters_of_a_vit_with_relative_positions_and_a_pyramid():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        backbone = build(BackboneConfig("vitdet_b"))
        vit = timm.create_model("vit_base_patch16_224.mae", num_classes=0)
    unused = 768 + 768 + 2 * 768  # class token, its position, last norm
    relative = (8 * 2 * (2 * 14 - 1) + 4 * 2 * (2 * 64 - 1)) * 64
    pyramid = (4 * 768 * 384 + 384) + 2 * 384 + (4 * 384 * 192 + 192) + (4 * 768 * 384 + 384)
    assert count(backbone) == count(vit) - unused + relative + pyramid


def rates(name, batch, steps):
    """The largest learning rate at steps of the recipe's own batch, for a run with another batch."""
    module = settings(name)
    config, optimizer = module.schedule_config, module.optimizer_config
    longer = config.reference_batch / batch
    steps_per_epoch = COCO_IMAGES // batch
    schedule = plan(config, batch, steps_per_epoch)
    lr = optimizer.lr * batch / config.reference_batch
    return [lr / (batch / config.reference_batch) * schedule.factor(round(step * longer)) for step in steps]


NEW_BASELINES = (163889, 177546)


@pytest.mark.parametrize(
    ("name", "lr", "warmup", "milestones"),
    [
        ("mask_rcnn_r50_fpn_lsj_100ep_coco", 0.1, (500, 0.067), NEW_BASELINES),
        slow("mask_rcnn_regnety_4gf_fpn_lsj_200ep_coco", 0.1, (500, 0.067), (327778, 355092)),
        slow("mask_rcnn_regnetx_4gf_fpn_lsj_400ep_coco", 0.1, (500, 0.067), (655556, 710184)),
        ("mask_rcnn_r50_fpn_v2_400ep_coco", 0.1, (1000, 0.001), (352 * 1832, 384 * 1832)),  # 1832 steps of 64 images
        ("mask_rcnn_vitdet_b_100ep_coco", 1e-4, (250, 0.001), NEW_BASELINES),
        slow("cascade_mask_rcnn_vitdet_l_100ep_coco", 1e-4, (250, 0.001), NEW_BASELINES),
        slow("mask_rcnn_r50_fpn_rsb_1x_coco", 2e-4, (1000, 0.001), (60000, 80000)),
        slow("mask_rcnn_dinov3_vit_s_3x_coco", 1e-4, (1000, 0.001), (210000, 250000)),
    ],
)
@pytest.mark.parametrize("share", [1, 0.5, 0.125])
def test_the_learning_rate_at_given_images_is_the_same_for_every_batch(name, lr, warmup, milestones, share):
    needs_timm(name)
    length, start = warmup
    first, second = milestones
    steps = [0, length // 2, length, first - 64, first + 64, second - 64, second + 64]
    batch = round(settings(name).schedule_config.reference_batch * share)
    expected = [start, (1 + start) / 2, 1, 1, 0.1, 0.1, 0.01]
    if name.startswith("mask_rcnn_r50_fpn_v2"):  # epochs of 117266 images do not divide into steps of any batch
        steps[3:] = [first - 1832, first + 1832, second - 1832, second + 1832]
    assert rates(name, batch, steps) == pytest.approx([lr * factor for factor in expected])


def test_the_task_aligned_recipe_decays_along_a_cosine_and_ends_its_augmentation_20_epochs_before_the_end():
    name = "task_aligned_r50_fpn_300ep_coco"
    for batch in (16, 256):
        steps = 300 * (COCO_IMAGES // batch) * batch // 256
        found = rates(name, batch, [0, 500, steps // 2, steps])
        assert found == pytest.approx([4e-6, 0.5 * 4e-3, 0.5 * 4e-3, 0], rel=0.01, abs=1e-6)
    assert round(300 * (1 - read_config(name).settings["data"]["strong_until"])) == 20


@pytest.mark.parametrize("batch", [8, 64, 512])
def test_a_recipe_sees_as_many_images_on_1_8_or_64_devices(batch):
    module = settings("mask_rcnn_vitdet_b_100ep_coco")
    steps = limits(module.schedule_config, batch)["max_steps"]
    assert steps * batch == pytest.approx(184375 * 64, abs=batch)


def test_a_run_says_that_it_follows_the_recipe_for_another_batch():
    config = settings("mask_rcnn_r50_fpn_lsj_100ep_coco").schedule_config
    assert describe_scaling(config, 0.1, 64) is None
    assert describe_scaling(config, 0.1, 8) == (
        "Batch: the recipe has learning rate 0.1 for 64 images per step; with 8 it is the same recipe at 0.125 times "
        "the rate and 8 times the steps"
    )


def groups_of(name):
    module = settings(name)
    model = without_memory(module)
    return model, module.optimizer_config, parameter_groups(model, module.optimizer_config)


@pytest.mark.parametrize(("size", "depth", "decay"), [("b", 12, 0.7), slow("l", 24, 0.8)])
def test_vitdet_has_a_rate_for_each_block_and_decays_neither_norms_nor_positions(size, depth, decay):
    pytest.importorskip("timm")
    model, config, groups = groups_of(f"mask_rcnn_vitdet_{size}_100ep_coco")
    assert (config.name, config.weight_decay, config.betas) == ("adamw", 0.1, (0.9, 0.999))
    assert sorted({g["lr_scale"] for g in groups}) == pytest.approx([decay**k for k in range(depth + 1, -1, -1)])
    kind = {id(p): (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    body = model.backbone
    assert kind[id(body.positions)] == (pytest.approx(decay ** (depth + 1)), 0.0)
    assert kind[id(body.blocks[0].attn.qkv.weight)] == (pytest.approx(decay**depth), 0.1)
    assert kind[id(body.blocks[depth - 1].attn.rel_pos_h)] == (pytest.approx(decay), 0.1)
    assert kind[id(body.blocks[depth - 1].norm1.weight)] == (pytest.approx(decay), 0.0)
    assert {kind[id(p)] for p in model.rpn.parameters()} == {(1.0, 0.1)}
    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert {kind[id(norm.weight)][1] for norm in norms} == {0.0}
    optimizer = build_optimizer(model, config, lr=config.lr)
    assert optimizer.param_groups[0]["lr"] == 1e-4
    assert len(kind) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("name", "decay", "norms"),
    [
        ("mask_rcnn_r50_fpn_lsj_100ep_coco", 4e-5, 0.0),
        ("mask_rcnn_r50_fpn_v2_400ep_coco", 4e-5, 4e-5),  # torchvision decays its norms, too
        slow("mask_rcnn_regnetx_4gf_fpn_lsj_100ep_coco", 4e-5, 0.0),
        slow("mask_rcnn_dinov3_convnext_t_3x_coco", 0.05, 0.0),
    ],
)
def test_which_parameters_decay(name, decay, norms):
    needs_timm(name)
    model, _, groups = groups_of(name)
    kind = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    kinds = (torch.nn.SyncBatchNorm, torch.nn.LayerNorm)
    found = {kind[id(m.weight)] for m in model.modules() if isinstance(m, kinds)}
    assert found == {norms}
    assert {kind[id(p)] for p in model.rpn.parameters()} == {decay}


@pytest.mark.slow
def test_only_the_last_stages_of_the_rsb_recipe_learn():
    pytest.importorskip("timm")
    module = settings("mask_rcnn_r50_fpn_rsb_1x_coco")
    backbone = module.configs["backbone"]
    assert (backbone.weights, backbone.norm, backbone.freeze) == ("imagenet", "frozen", 2)
    model = without_memory(module)
    learning = {name.split(".")[1] for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert learning == {"layer2", "layer3", "layer4"}


@pytest.mark.parametrize("name", [c.name for c in list_configs("*_coco") if "lsj" in c.name or "ep_coco" in c.name])
def test_a_long_recipe_averages_its_weights(name):
    batch = 256 if name.startswith("task_aligned") else 64
    assert read_config(name).settings["run"]["average"] == {"kind": "ema", "decay": 0.9998, "reference_batch": batch}


def test_every_recipe_has_a_source_or_says_that_there_is_none():
    for config in list_configs("*_coco"):
        if any(word in config.name for word in ("v2_400ep", "rsb", "vitdet", "regnet")):
            assert config.box_ap is not None, config.name
            assert config.source, config.name
    for name in ("recipes/dinov3_convnext_t", "recipes/dinov3_vit_s", "recipes/task_aligned"):
        assert re.search("nobody published (the|its) AP", list_configs(name)[0].title, re.IGNORECASE)


def test_the_documented_costs_are_images_by_the_measured_speed():
    measured = json.loads((ROOT / "docs/benchmarks/results.json").read_text(encoding="utf-8"))["training"]
    (speed,) = [row["toolkit"] for row in measured if row["machine"] == "NVIDIA H200"]
    page = (ROOT / "docs/how-to/recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| `(schedules/\w+)` \| ([\d.]+) M \| ([\d.]+) \|", page)
    assert len(rows) == 8
    for name, images, hours in rows:
        schedule = {"reference_batch": 16} | read_config(name).settings["model"]["schedule"]
        unit = COCO_IMAGES if schedule["unit"] == "epochs" else schedule["reference_batch"]
        seen = schedule["length"] * unit
        assert float(images) == pytest.approx(seen / 1e6, rel=0.01), name
        assert float(hours) == pytest.approx(seen / speed / 3600, abs=0.06), name
        first = read_config(name).files[0].read_text(encoding="utf-8").splitlines()[1]
        written = re.search(r"# Cost: ([\d.]+) million images; computed: ([\d.]+) hours", first)
        assert written is not None, name
        assert float(written[1]) == pytest.approx(seen / 1e6, abs=0.05), name
        assert float(written[2]) == pytest.approx(float(hours), rel=0.03), name


# Two steps of each, with narrow parts and small images.

SMALL = {
    "model": {
        "fpn": {"channels": 16},
        "rpn": {
            "anchors": {"sizes": [8, 16, 32, 64, 128]},
            "samples": 32,
            "pre_nms_train": 50,
            "pre_nms_test": 50,
            "proposals_train": 20,
            "proposals_test": 20,
        },
        "box_head": {"hidden": 32, "samples": 16, "detections": 10},
        "schedule": {"warmup": 0},
    },
    "data": {
        "train": {"images": "train", "annotations": "annotations/instances_train.json"},
        "val": None,
        "batch_size": 2,
        "workers": 0,
        "short_side": 64,
        "long_side": 96,
    },
    "trainer": {
        "accelerator": "cpu",
        "precision": "32-true",
        "max_steps": 2,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
    },
    "run": {"pictures": 0, "report": False},
}
JITTER = {"data": {"jitter": {"size": [96, 96]}}}
RESNET = {"model": {"backbone": {"name": "resnet10", "width": 8}}}


def overlay(path, *parts):
    for i, part in enumerate(parts):
        path.with_suffix(f".{i}.yaml").write_text(json.dumps(part))
    return [word for i in range(len(parts)) for word in ("--config", str(path.with_suffix(f".{i}.yaml")))]


@pytest.fixture
def train(shapes, tmp_path, monkeypatch):
    """Two steps of a recipe: train(name, parts...) gives the losses of the steps, and the module."""
    from detection.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vitdet.VITDETS, "vitdet_b", vitdet.Size(48, 4, 3, ""))
    losses, modules = [], []
    step = DetectionModule.training_step

    def spy(self, batch, index):
        found = step(self, batch, index)
        losses.append((float(found["loss"].detach()), len(batch.images)))
        modules[:] = [self]
        return found

    monkeypatch.setattr(DetectionModule, "training_step", spy)

    def call(name, *parts, unused=()):
        model = {k: v for k, v in SMALL["model"].items() if k not in unused}
        words = overlay(tmp_path / "small", SMALL | {"model": model}, {"data": {"root": str(shapes)}}, *parts)
        assert main(["fit", "--config", name, *words]) == 0
        assert torch.tensor([loss for loss, _ in losses]).isfinite().all()
        return losses, modules[0]

    return call


ALIGNED = {
    "model": {"task_aligned": {"convs": 1, "masks": True}},
    "data": {"jitter": {"size": [96, 96]}, "mosaic": {"size": [64, 64]}, "batch_size": 2},
}
MASKS = {"model": {"mask_head": {"convs": 1, "channels": 16}}}
FROM_SCRATCH = {"model": {"backbone": {"weights": None}}}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mask_rcnn_r50_fpn_lsj_100ep_coco", [RESNET, MASKS, JITTER]),
        slow("mask_rcnn_r50_fpn_v2_400ep_coco", [RESNET, MASKS, JITTER]),
        slow("faster_rcnn_r50_fpn_v2_400ep_coco", [RESNET, JITTER]),
        slow("mask_rcnn_r50_fpn_copy_paste_270k_coco", [RESNET, MASKS, JITTER]),
        slow("mask_rcnn_vitdet_b_100ep_coco", [FROM_SCRATCH, MASKS, JITTER]),
        slow("cascade_mask_rcnn_vitdet_b_100ep_coco", [FROM_SCRATCH, MASKS, JITTER]),
    ],
)
def test_two_steps(train, name, parts):
    needs_timm(name)
    losses, module = train(name, *parts)
    assert [images for _, images in losses] == [2, 2]
    learning = [n for n, p in module.model.named_parameters() if p.requires_grad]
    assert len(learning) == len(list(module.model.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("mask_rcnn_regnetx_4gf_fpn_lsj_100ep_coco", "timm/regnetx_002"),
        ("mask_rcnn_regnety_4gf_fpn_lsj_100ep_coco", "timm/regnety_002"),
        ("mask_rcnn_dinov3_convnext_t_3x_coco", "timm/convnext_atto"),
        ("mask_rcnn_dinov3_vit_s_3x_coco", "timm/vit_tiny_patch16_dinov3_qkvb"),
    ],
)
def test_two_steps_with_a_smaller_network_of_timm(train, name, backbone):
    needs_timm(name)
    swapped = {"model": {"backbone": {"name": backbone, "weights": None}}}
    jitter = JITTER if "lsj" in name else {}
    train(name, swapped, MASKS, jitter)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask_rcnn_r50_fpn_rsb_1x_coco", "retinanet_r50_fpn_rsb_1x_coco"])
def test_two_steps_of_rsb_with_frozen_parts_from_a_file(train, name, tmp_path):
    needs_timm(name)
    torch.save(build(BackboneConfig("resnet10", width=8)).state_dict(), tmp_path / "small.pth")
    given = {"model": {"backbone": {"name": "resnet10", "width": 8, "weights": str(tmp_path / "small.pth")}}}
    if name.startswith("retinanet"):
        _, module = train(name, given, unused=("rpn", "box_head"))
    else:
        _, module = train(name, given, MASKS)
    assert any(not p.requires_grad for p in module.model.backbone.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 16])
def test_steps_of_the_task_aligned_recipe(train, batch):
    parts = [RESNET, FROM_SCRATCH, ALIGNED, {"data": {"batch_size": batch}}]
    losses, module = train("task_aligned_r18_fpn_300ep_coco", *parts, unused=("rpn", "box_head"))
    assert [images for _, images in losses] == [batch] * 2
    assert all(p.requires_grad for p in module.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mask_rcnn_r50_fpn_lsj_100ep_coco", [RESNET, MASKS, JITTER]),
        ("mask_rcnn_vitdet_b_100ep_coco", [FROM_SCRATCH, MASKS, JITTER]),
    ],
)
def test_a_recipe_survives_1_and_16_images_a_step(train, name, parts, batch):
    needs_timm(name)
    losses, _ = train(name, *parts, {"data": {"batch_size": batch}})
    assert len(losses) == 2

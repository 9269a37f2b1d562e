"""Every shipped config parses and builds, matches its name, and keeps its settings."""

import json
from pathlib import Path

import pytest
import yaml

from detection.data.copy_paste import CopyPaste
from detection.data.jitter import JitterConfig
from detection.engine.command import Command
from detection.engine.configs import list_configs, names_of_configs, read_config
from detection.engine.console import Console
from detection.engine.kinds import Classifiers, Pretraining
from detection.engine.schedule import plan
from detection.models.cascade import CascadeConfig
from detection.models.keypoint_head import KeypointHeadConfig
from detection.models.point_head import PointHeadConfig

FOLDER = Path(__file__).resolve().parents[1] / "configs"
RECORDED = json.loads((Path(__file__).parent / "data" / "configs.json").read_text(encoding="utf-8"))
"""The settings that each name had when it was a file of its own."""
BACKBONES = {
    "r18": "resnet18",
    "r34": "resnet34",
    "r50": "resnet50",
    "r101": "resnet101",
    "r152": "resnet152",
    "x101_32x8d": "resnext101_32x8d",
    "wide_r50_2": "wide_resnet50_2",
}
COCO = [f"{kind}_rcnn_{b}_fpn_{s}_coco" for kind in ("faster", "mask") for b in BACKBONES for s in ("1x", "3x")]
LONG = [
    *(f"mask_rcnn_{b}_fpn_lsj_{epochs}ep_coco" for b in ("r50", "r101") for epochs in (100, 200, 400)),
    "mask_rcnn_r50_fpn_copy_paste_270k_coco",
]
RECIPES = [
    *(f"{kind}_rcnn_r50_fpn_v2_400ep_coco" for kind in ("faster", "mask")),
    *(f"mask_rcnn_regnet{kind}_4gf_fpn_lsj_{epochs}ep_coco" for kind in "xy" for epochs in (100, 200, 400)),
    *(f"{kind}_r50_fpn_rsb_1x_coco" for kind in ("faster_rcnn", "mask_rcnn", "cascade_mask_rcnn", "retinanet")),
    *(f"{kind}_rcnn_vitdet_{size}_100ep_coco" for kind in ("mask", "cascade_mask") for size in "bl"),
    *(f"mask_rcnn_dinov3_{name}_3x_coco" for name in ("convnext_t", "vit_s")),
    *(f"task_aligned_{name}_fpn_300ep_coco" for name in ("r18", "r50", "r101")),
]
"""Those that tests/detection/engine/test_recipes.py checks."""
ONE_STAGE = [f"{name}_coco" for name in ("retinanet_r50_fpn_1x", "retinanet_r50_fpn_3x", "retinanet_r101_fpn_3x")]
ONE_STAGE += ["fcos_r50_fpn_1x_coco"]
DEMOS = [
    "demo_fcos",
    "demo_keypoints",
    "demo_retinanet",
    "demo_task_aligned",
    "demo_semantic",
    "demo_panoptic",
    "demo_pointrend",
]
KEYPOINTS = [f"keypoint_rcnn_{name}_coco" for name in ("r50_fpn_1x", "r50_fpn_3x", "r101_fpn_3x")]
POINTREND = [f"pointrend_{name}_coco" for name in ("r50_fpn_1x", "r50_fpn_3x", "r101_fpn_3x")]
PANOPTIC = ["semantic_fpn_r50_1x_coco", *(f"panoptic_fpn_{name}_coco" for name in ("r50_1x", "r50_3x", "r101_3x"))]
CLASSIFIERS = {"classify_finetune": 30, "classify_multi_label": 30, "classify_r18": 90, "classify_r50_imagenet": 90}
CLASSIFIERS |= {f"classify_r50_{name}": epochs for name, epochs in (("a1", 600), ("a2", 300), ("a3", 100))}
CASCADE = [f"cascade_mask_rcnn_r50_fpn_{schedule}_coco" for schedule in ("1x", "3x")]
WHOLE = ("base/", "demo", "nuclei", *ONE_STAGE, *CASCADE, *KEYPOINTS, *POINTREND, *PANOPTIC)
PRETRAINING = {"pretrain_simsiam_r50_100ep": 100, "pretrain_simsiam_r50_200ep": 200, "pretrain_simsiam_r18": 200}
UNTITLED = COCO + ONE_STAGE + DEMOS + CASCADE + KEYPOINTS + POINTREND + PANOPTIC + LONG + RECIPES
UNTITLED += [*CLASSIFIERS, *PRETRAINING]
"""Configs that say what the model is; all others change one that does."""


class Parsed(Exception):
    """Raised instead of running."""


class OnlyParser(Command):
    """Stops when the options are known."""

    def parse_arguments(self, parser, args):
        type(self).found = parser
        raise Parsed


@pytest.fixture(scope="module")
def parser():
    with pytest.raises(Parsed):
        OnlyParser(Console())
    return OnlyParser.found


def parse(parser, *names, options=()):
    return parser.parse_args(["fit", *(word for name in names for word in ("--config", name)), *options])


@pytest.mark.parametrize("name", RECORDED)
def test_a_name_keeps_its_settings(name):
    for spelled in (name, f"{name}.yaml", f"configs/{name}.yaml", str(FOLDER / f"{name}.yaml")):
        assert read_config(spelled).settings == RECORDED[name], spelled


def test_there_are_1x_and_3x_of_each():
    assert len(COCO) == 28
    assert set(COCO) <= set(names_of_configs())
    assert set(COCO) <= set(RECORDED)


@pytest.fixture(scope="module")
def parser_of_classifiers():
    with pytest.raises(Parsed):
        OnlyParser(Console(), Classifiers())
    return OnlyParser.found


OF_DETECTORS = [n for n in names_of_configs() if n not in COCO and "classif" not in n and "simsiam" not in n]


@pytest.mark.parametrize("name", ["base/classifier", *CLASSIFIERS])
def test_the_config_of_a_classifier_parses_and_builds(parser_of_classifiers, name):
    module = parser_of_classifiers.instantiate_classes(parse(parser_of_classifiers, name)).fit.model
    assert module.classifier_config.name == ("resnet18" if "r18" in name else "resnet50")
    assert module.schedule_config.length == CLASSIFIERS.get(name, 90)


@pytest.fixture(scope="module")
def parser_of_pretraining():
    with pytest.raises(Parsed):
        OnlyParser(Console(), Pretraining())
    return OnlyParser.found


@pytest.mark.parametrize("name", ["base/simsiam", *PRETRAINING])
def test_the_config_of_a_pretraining_is_that_of_the_paper(parser_of_pretraining, name):
    """Chen and He 2020, section 3: SGD, a rate of 0.05 times the batch size over 256, cosine, weight decay 1e-4."""
    found = parser_of_pretraining.instantiate_classes(parse(parser_of_pretraining, name)).fit
    module, optimizer = found.model, found.model.given_optimizer
    assert module.network_config.name == ("resnet18" if "r18" in name else "resnet50")
    assert module.network_config.norm == "sync"
    assert (module.simsiam_config.outputs, module.simsiam_config.inner) == (2048, 512)
    assert module.schedule_config.length == PRETRAINING.get(name, 100)
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.9, 1e-4)
    assert optimizer.lr * 256 / module.schedule_config.reference_batch == 0.05
    assert (optimizer.decay_norms, optimizer.nesterov) == (True, False)
    schedule = plan(module.schedule_config, found.data.config.batch_size, steps_per_epoch=10)
    assert (schedule.kind, schedule.warmup) == ("cosine", 0)


QUICK = [
    name if place % 18 == 0 or name.startswith(("base/", "demo")) else pytest.param(name, marks=pytest.mark.slow)
    for place, name in enumerate(OF_DETECTORS + COCO[::9])
]
"""Some of the configs, and those of every kind of detector; the others are slow tests."""


@pytest.mark.parametrize("name", QUICK)
def test_it_parses_and_its_settings_fit_together(parser, name):
    names = [name] if name.startswith(WHOLE) or name in COCO + LONG + RECIPES else ["mask_rcnn_r50_fpn_1x_coco", name]
    parser.instantiate_classes(parse(parser, *names))  # builds the detector without memory, and reads no data


@pytest.mark.parametrize("name", COCO)
def test_it_is_what_its_name_says(name):
    kind, backbone, schedule = name.split("_rcnn_")[0], name.split("_rcnn_")[1].split("_fpn_")[0], name.split("_")[-2]
    model = read_config(name).settings["model"]
    assert model["backbone"]["name"] == BACKBONES[backbone]
    assert bool(model.get("mask_head")) == (kind == "mask")
    assert (model["schedule"]["length"], *model["schedule"]["milestones"]) == {
        "1x": (90000, 60000, 80000),
        "3x": (270000, 210000, 250000),
    }[schedule]


def test_each_file_says_in_its_first_line_what_it_is():
    for config in list_configs():
        assert bool(config.title) != (config.name in UNTITLED), config.name


def test_published_figures_have_a_source_and_are_those_of_the_zoo():
    from detection.convert.zoo import DETECTRON2, MMDETECTION

    published = [c for c in list_configs() if c.source is not None and c.name not in LONG + RECIPES]
    assert len(published) == 25
    for config in published:
        if config.name.startswith("fcos"):
            continue  # its authors' weights are in none of these
        origin, _, name = str(config.source).partition(", ")
        entry = (DETECTRON2 if origin.startswith("detectron2") else MMDETECTION)[name]
        figures = [(one.box_ap, one.mask_ap, one.keypoint_ap, one.pq) for one in (entry, config)]
        assert figures[0] == figures[1], config.name
    header = (FOLDER / "names.yaml").read_text(encoding="utf-8").partition("\n\n")[0]
    assert "others published" in header
    assert "This toolkit did not measure it" in header


def test_three_times_as_long_by_an_overlay(parser):
    overlaid = parse(parser, "mask_rcnn_r50_fpn_1x_coco", "schedules/3x").fit
    written = parse(parser, "mask_rcnn_r50_fpn_3x_coco").fit
    assert overlaid.model == written.model
    assert overlaid.data == written.data


def test_a_combination_on_the_command_line_is_that_of_a_name(parser):
    parts = list_configs("mask_rcnn_r101_fpn_3x_coco")[0].parts
    combined, named = parse(parser, *parts).fit, parse(parser, "mask_rcnn_r101_fpn_3x_coco").fit
    assert (combined.model, combined.data) == (named.model, named.data)


def test_several_overlays_are_laid_over_each_other(parser):
    options = ["--data.root", "here"]
    settings = parse(parser, "mask_rcnn_r50_fpn_1x_coco", "data/own", "sizes/640", options=options).fit
    assert (settings.data.short_side, settings.data.long_side) == (640, 1066)
    assert settings.data.root == "here"
    assert settings.data.train.images == "train"
    assert settings.model.schedule.unit == "epochs"


def test_a_file_of_parts_is_a_config_with_their_settings(parser, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"parts": ["mask_rcnn_r50_fpn_1x_coco", "sizes/640"], "data": {"flip": 0.25}}))
    settings = parse(parser, str(mine)).fit
    assert (settings.data.short_side, settings.data.flip) == (640, 0.25)
    assert settings.model.mask_head.convs == 4


def test_the_example_in_the_design_holds(parser):
    options = ["--model.backbone.name", "timm/convnextv2_tiny", "--model.mask_head", "null"]
    settings = parse(parser, "mask_rcnn_r50_fpn_1x_coco", options=options).fit
    assert settings.model.mask_head is None
    assert settings.model.backbone.weights == "imagenet"
    assert settings.data.masks is False


@pytest.mark.parametrize("name", KEYPOINTS)
def test_a_keypoint_rcnn_is_the_published_one(parser, name):
    found = parser.instantiate_classes(parse(parser, name)).fit
    module, head = found.model, found.model.configs["keypoint_head"]
    assert head == KeypointHeadConfig()
    assert (module.configs["rpn"].proposals_train, module.configs["box_head"].beta) == (1500, 0.5)
    assert module.configs["mask_head"] is None
    assert found.data.config.keypoints
    assert "person_keypoints" in found.data.config.train.annotations


@pytest.mark.parametrize("name", POINTREND)
def test_a_pointrend_is_the_published_one(parser, name):
    found = parser.instantiate_classes(parse(parser, name)).fit
    assert found.model.configs["point_head"] == PointHeadConfig()
    assert found.model.configs["mask_head"] is None
    assert found.data.config.masks


@pytest.mark.parametrize("name", CASCADE)
def test_a_cascade_is_the_published_one(parser, name):
    module = parser.instantiate_classes(parse(parser, name)).fit.model
    assert module.configs["cascade"] == CascadeConfig()
    assert module.configs["rpn"].proposals_train == 2000
    assert module.configs["mask_head"] is not None


PUBLISHED = {
    "mask_rcnn_r50_fpn_lsj_100ep_coco": (44.6, 40.3),
    "mask_rcnn_r50_fpn_lsj_200ep_coco": (46.3, 41.7),
    "mask_rcnn_r50_fpn_lsj_400ep_coco": (47.4, 42.5),
    "mask_rcnn_r101_fpn_lsj_100ep_coco": (46.4, 41.6),
    "mask_rcnn_r101_fpn_lsj_200ep_coco": (48.0, 43.1),
    "mask_rcnn_r101_fpn_lsj_400ep_coco": (48.9, 43.7),
    "mask_rcnn_r50_fpn_copy_paste_270k_coco": (45.1, 40.3),
}
"""Of detectron2's MODEL_ZOO.md and of configs/simple_copy_paste in mmdetection."""


@pytest.mark.parametrize("name", LONG)
def test_a_long_recipe_is_the_published_one(parser, name):
    info = list_configs(name)[0]
    assert (info.box_ap, info.mask_ap) == PUBLISHED[name]
    found = parser.instantiate_classes(parse(parser, name)).fit
    module, data = found.model, found.data.config
    pastes = "copy_paste" in name
    # Images: detectron2's new baselines have the large jitter, mmdetection's copy-paste the standard one.
    assert data.jitter == JitterConfig((0.8, 1.25) if pastes else (0.1, 2.0), (1024, 1024))
    assert data.copy_paste == (CopyPaste(1.0, 100, 10, 300) if pastes else None)
    assert (data.batch_size, data.strong_until, data.flip, data.test_size) == (64, 1.0, 0.5, (800, 1333))
    # The model: from scratch, batch norm over all devices, two convolutions in the RPN, four and one layer in the head.
    configs = module.configs
    assert (configs["backbone"].weights, configs["backbone"].norm, configs["backbone"].freeze) == (None, "sync", 0)
    assert [configs[part].norm for part in ("fpn", "box_head", "mask_head")] == ["sync"] * 3
    assert (configs["rpn"].convs, configs["box_head"].convs, configs["box_head"].fcs) == (2, 4, 1)
    # The schedule, at 64 images per step and at 16.
    config = module.schedule_config
    if pastes:
        length, milestones, warmup, start = 270000, (243000, 256500, 263250), 1000, 0.001
    else:
        times = int(name.split("_lsj_")[1].removesuffix("00ep_coco"))
        length, milestones = 184375 * times, (163889 * times, 177546 * times)
        warmup, start = 500, 0.067
    for batch, longer in ((64, 1), (16, 4)):
        schedule = plan(config, batch, steps_per_epoch=118000 // batch)
        assert (schedule.total, schedule.milestones) == (length * longer, tuple(m * longer for m in milestones))
        steps = [0, warmup * longer // 2, warmup * longer, milestones[0] * longer - 1]
        assert [schedule.factor(k) for k in steps] == pytest.approx([start, (1 + start) / 2, 1, 1])
        lowered = [0.1 ** (k + 1) for k in range(len(milestones))]
        assert [schedule.factor(m * longer) for m in milestones] == pytest.approx(lowered)
    average = found.run.average  # ours, for long trainings
    assert (average.kind, average.decay, average.reference_batch) == ("ema", 0.9998, 64)
    # The optimizer: mmdetection pulls the norms towards zero, too.
    optimizer = module.optimizer_config
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.1, 0.9, 4e-5)
    assert config.reference_batch == 64
    assert optimizer.decay_norms == pastes

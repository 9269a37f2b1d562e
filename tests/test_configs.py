"""Every shipped config parses and builds, and says what its name says."""

from pathlib import Path

import pytest

from detection.engine.command import Command
from detection.models.mask_head import MaskHeadConfig

FOLDER = Path(__file__).resolve().parents[1] / "configs"
EVERY = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))
COCO = [name for name in EVERY if name.endswith("_coco.yaml")]
BACKBONES = {
    "r18": "resnet18",
    "r34": "resnet34",
    "r50": "resnet50",
    "r101": "resnet101",
    "r152": "resnet152",
    "x101_32x8d": "resnext101_32x8d",
    "wide_r50_2": "wide_resnet50_2",
}


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
        OnlyParser()
    return OnlyParser.found


@pytest.mark.parametrize("name", EVERY)
def test_it_parses_and_its_settings_fit_together(parser, name):
    settings = parser.parse_args(["fit", "--config", name])
    parser.instantiate_classes(settings)  # builds the detector without memory, and reads no data


@pytest.mark.parametrize("name", COCO)
def test_it_is_what_its_name_says(parser, name):
    kind, backbone, schedule = name.split("_rcnn_")[0], name.split("_rcnn_")[1].split("_fpn_")[0], name.split("_")[-2]
    model = parser.instantiate_classes(parser.parse_args(["fit", "--config", name])).fit.model
    assert model.configs["backbone"].name == BACKBONES[backbone]
    assert isinstance(model.configs["mask_head"], MaskHeadConfig) == (kind == "mask")
    assert (model.schedule_config.length, *model.schedule_config.milestones) == {
        "1x": (90000, 60000, 80000),
        "3x": (270000, 210000, 250000),
    }[schedule]


@pytest.mark.parametrize("name", COCO)
def test_it_is_flat_short_and_shows_its_command(name):
    text = (FOLDER / name).read_text()
    assert len(text.splitlines()) <= 50
    assert f"rcnn fit --config {name.removesuffix('.yaml')} " in text
    assert "unit: iterations" in text


def test_there_are_1x_and_3x_of_each():
    expected = {
        f"{kind}_rcnn_{b}_fpn_{s}_coco.yaml" for kind in ("faster", "mask") for b in BACKBONES for s in ("1x", "3x")
    }
    assert set(COCO) == expected


def test_three_times_as_long_by_an_overlay(parser):
    overlaid = parser.parse_args(["fit", "--config", "mask_rcnn_r50_fpn_1x_coco", "--config", "schedules/3x"]).fit
    written = parser.parse_args(["fit", "--config", "mask_rcnn_r50_fpn_3x_coco"]).fit
    assert overlaid.model == written.model
    assert overlaid.data == written.data


def test_own_data_laid_over(parser):
    options = ["--config", "mask_rcnn_r50_fpn_1x_coco", "--config", "data/own", "--data.root", "here"]
    settings = parser.parse_args(["fit", *options]).fit
    assert settings.data.root == "here"
    assert settings.data.train.images == "train"
    assert settings.model.schedule.unit == "epochs"


def test_the_example_in_the_design_holds(parser):
    options = ["--model.backbone.name", "timm/convnextv2_tiny", "--model.mask_head", "null"]
    settings = parser.parse_args(["fit", "--config", "mask_rcnn_r50_fpn_1x_coco", *options]).fit
    assert settings.model.mask_head is None
    assert settings.model.backbone.weights == "imagenet"
    assert settings.data.masks is False

"""The names of settings that are read from the source are those of the parser."""

import pytest

from detection.engine import command
from detection.engine.console import Console
from detection.engine.kinds import Classifiers, Detectors, Pretraining
from detection.engine.setting_names import GROUPS, all_names, settings_of, wrong_name

FOLLOW = {"data.masks", "data.seed", "data.few_canvases", "data.channels"}
"""Arguments that follow from settings."""


class Options(command.Command):
    def parse_arguments(self, parser, args):
        raise StopIteration(parser)


@pytest.fixture(scope="module")
def parsed():
    """All options of a training, of each kind of models."""
    found = set()
    for kind in (Detectors(), Classifiers(), Pretraining()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["rcnn", "fit"])
            with pytest.raises(StopIteration) as stop:
                Options(Console(), kind)
        parser = stop.value.value._subcommands_action._name_parser_map["fit"]
        found |= {action.dest for action in parser._actions}
    return found


def test_every_option_of_the_parser_is_a_name(parsed):
    ours = {name for name in parsed if name.split(".")[0] in GROUPS and "." in name and not name.endswith(".help")}
    assert len(ours) > 100
    assert sorted(name for name in ours if wrong_name(name)) == []
    assert ours <= set(all_names())


def test_every_name_is_an_option_of_the_parser(parsed):
    """Settings that may be null are one option: those below it are keys of its value."""
    options = {name for name in parsed if not name.endswith(".help")}
    whole = {name for name in options if not any(other.startswith(f"{name}.") for other in options)}
    assert {"run.average", "model.mask_head", "data.val"} <= whole
    ours = {name for name in all_names() if name.split(".")[0] in GROUPS and name not in FOLLOW}
    assert {name for name in ours - parsed if not any(name.startswith(f"{one}.") for one in whole)} == set()


def test_a_class_is_read_without_its_import():
    assert settings_of(("backbones", "BackboneConfig")).keys() >= {"name", "weights", "norm"}
    assert settings_of(GROUPS["model"])["mask_head"] == ("detection.models.mask_head", "MaskHeadConfig")
    assert settings_of(("detection.models", "Nothing")) is None
    assert settings_of(("nowhere", "Nothing")) is None


@pytest.mark.parametrize(
    ("name", "is_wrong"),
    [
        ("model.backbone.nmae", True),
        ("model.bakbone.name", True),
        ("run.average.deacy", True),
        ("data.train.image", True),
        ("data.val.images", False),
        ("model.mask_head.help", False),
        ("data.augment.init_args.p", False),
        ("trainer.max_epoch", True),
        ("trainer.max_epochs", False),
        ("trainer.logger.init_args.save_dir", False),
        ("nothing.at_all", False),
    ],
)
def test_only_a_name_that_is_certainly_wrong_is_wrong(name, is_wrong):
    assert wrong_name(name) == is_wrong

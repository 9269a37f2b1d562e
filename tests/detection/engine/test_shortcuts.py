"""Options that set other options: in the help of the parser, and in its values."""

import pytest
import yaml

from detection.engine.errors import InputError
from detection.engine.settings import read_settings
from detection.engine.shortcuts import SHORTCUTS, add_shortcuts


@pytest.fixture
def parser():
    from detection.engine.parser import STRICT, Parser

    parser = Parser(**STRICT)
    parser.add_argument("--ckpt_path", type=str | None, default=None)
    parser.add_argument("--model.weights", type=str | None, default=None)
    parser.add_argument("--trainer.deterministic", type=bool | None, default=None)
    add_shortcuts(parser)
    return parser


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        (["--resume", "a.ckpt"], "ckpt_path", "a.ckpt"),
        (["--resume=a.ckpt"], "ckpt_path", "a.ckpt"),
        (["--ckpt_path", "b.ckpt", "--resume", "a.ckpt"], "ckpt_path", "a.ckpt"),
        (["--init-from", "torchvision:maskrcnn"], "model.weights", "torchvision:maskrcnn"),
        (["--deterministic", "seeded"], "trainer.deterministic", False),
        (["--deterministic=strict"], "trainer.deterministic", True),
        (["--debug", "--trust-code"], "ckpt_path", None),
    ],
)
def test_a_shortcut_sets_the_option_that_it_stands_for(parser, given, key, value):
    assert parser.parse_args(given)[key] == value


def test_shortcuts_are_in_the_help_and_are_no_settings(parser):
    text = parser.format_help()
    config = yaml.safe_load(parser.dump(parser.parse_args(["--resume", "a.ckpt", "--debug"])))
    assert config.keys() == {"ckpt_path", "model", "trainer"}
    for shortcut in SHORTCUTS:
        assert shortcut.name in text
        assert " ".join(shortcut.help.split()[:4]) in " ".join(text.split())


def test_a_shortcut_in_a_config_file_is_an_unknown_setting(tmp_path):
    (tmp_path / "a.yaml").write_text("resume: a.ckpt\n")
    with pytest.raises(InputError, match="no option resume"):
        read_settings(["--config", str(tmp_path / "a.yaml")])


def test_a_value_of_another_kind_is_refused(parser):
    with pytest.raises(InputError, match="--deterministic 1: must be strict or seeded"):
        parser.parse_args(["--deterministic", "1"])

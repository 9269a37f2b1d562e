"""How jsonargparse and argparse read the options of Lightning."""

from typing import Union

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from detection.engine.parser import Parser


def parsed(hint, text):
    parser = ArgumentParser()
    parser.add_argument("--limit", type=hint)
    value = parser.parse_args([f"--limit={text}"]).limit
    return value, type(value)


def test_a_union_of_typing_may_turn_one_batch_into_all():
    assert parsed(Union[float, int, None], "1") == (1.0, float)  # noqa: UP007
    assert parsed(int | float | None, "1") == (1, int)


@pytest.mark.parametrize("name", [f"limit_{part}_batches" for part in ("train", "val", "test", "predict")])
def test_the_limits_of_our_trainer_keep_whole_numbers_whole(name):
    hint = Trainer.__init__.__annotations__[name]
    assert parsed(hint, "1") == (1, int)
    assert parsed(hint, "0.5") == (0.5, float)


@pytest.mark.parametrize(("kind", "taken"), [(LightningArgumentParser, True), (Parser, False)])
def test_lightnings_parser_takes_abbreviations_and_ours_does_not(kind, taken):
    parser = kind()
    parser.add_argument("--batch_size", type=int)
    if taken:
        assert parser.parse_args(["--batch", "3"]).batch_size == 3
    else:
        with pytest.raises(ValueError, match="batch"):
            parser.parse_args(["--batch", "3"])

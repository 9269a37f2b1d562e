"""How jsonargparse and argparse read the options of Lightning."""

from typing import Union

import pytest
from jsonargparse import ArgumentParser, _actions, _core, _subcommands
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from detection.engine.lightning_mends import parsing
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


def test_jsonargparse_walks_through_all_actions_for_each_setting_and_our_search_does_not(monkeypatch):
    """If the first assertion fails, jsonargparse has an index of its own: remove ``remember_actions``."""
    walks = []
    filtered = _actions.filter_non_parsing_actions
    monkeypatch.setattr(
        _subcommands, "filter_non_parsing_actions", lambda actions: walks.append(1) or filtered(actions)
    )
    parser = ArgumentParser()
    for k in range(20):
        parser.add_argument(f"--setting{k}", type=int, default=k)

    def walked(search):
        monkeypatch.setattr(_core, "find_action_and_subcommand", search)
        walks.clear()
        assert parser.parse_args(["--setting7=1"]).setting7 == 1
        return len(walks)

    assert walked(parsing._search) > 40
    assert walked(parsing._remembered_search) <= 20
    assert walked(parsing._remembered_search) == 0


def test_an_action_that_is_added_later_is_found():
    parser, subparser = ArgumentParser(), ArgumentParser()
    assert parsing._remembered_search(parser, "late") == (None, None)
    parser.add_argument("--late")
    assert parsing._remembered_search(parser, "late")[0].dest == "late"
    parser.add_subcommands().add_subcommand("part", subparser)
    assert parsing._remembered_search(parser, "part.later") == (None, "part")
    subparser.add_argument("--later")
    found, part = parsing._remembered_search(parser, "part.later")
    assert (found.dest, part) == ("later", "part")

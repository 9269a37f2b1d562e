"""Parse the command line: integers stay integers, options are not abbreviated, settings are found quickly."""

from typing import Any

import jsonargparse._core
import jsonargparse._subcommands
import lightning.pytorch


def keep_whole_limits() -> None:
    """Read ``trainer.limit_val_batches 1`` as one batch.

    Lightning declares its limits as ``Union[int, float, None]``. Python caches one object for all unions of the same
    types, with the order of the first one. jsonargparse tries the types in that order: 1 could become 1.0, which means
    all batches. A union written with ``|`` keeps its own order.
    """
    hints = lightning.pytorch.Trainer.__init__.__annotations__
    limits = {name for name, hint in hints.items() if name.startswith("limit_") and hint == int | float | None}
    hints.update(dict.fromkeys(limits, int | float | None))


class NoAbbreviations:
    """Reject abbreviated options; in the list of bases, this class comes before a parser of Lightning.

    argparse has an argument against abbreviations, but Lightning does not pass it to its subcommands.
    """

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        return []


_search = jsonargparse._subcommands.find_action_and_subcommand


def remember_actions() -> None:
    """Search for the action of a setting once per parser.

    jsonargparse 4.53 walks through all 400 actions whenever it handles one of 400 settings, several times per setting.
    This took a fifth of the time of parsing.
    """
    for module in (jsonargparse._subcommands, jsonargparse._core):
        module.find_action_and_subcommand = _remembered_search  # type: ignore[attr-defined]


def _remembered_search(parser: Any, name: str, exclude: Any = None) -> Any:
    actions = parser._actions
    state = len(actions), id(actions[-1]) if actions else 0
    if vars(parser).get("_found_at") != state:
        # With subcommands, the answer depends on actions of other parsers, too.
        nested = any(isinstance(action, jsonargparse._subcommands.ActionSubCommands) for action in actions)
        parser._found_at, parser._found = state, None if nested else {}
    if parser._found is None:
        return _search(parser, name, exclude)
    if (name, exclude) not in parser._found:
        parser._found[name, exclude] = _search(parser, name, exclude)
    return parser._found[name, exclude]

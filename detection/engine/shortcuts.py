"""Options of the command line that stand for another option, or that say something about the command alone."""

import argparse
from typing import Any, NamedTuple

from detection.engine.errors import InputError


class Shortcut(NamedTuple):
    """An option that is no setting of its own."""

    name: str
    help: str
    option: str | None = None
    """The option that it stands for; None for a switch that :mod:`detection.cli` reads."""
    metavar: str | None = None
    words: dict[str, Any] | None = None
    """The words that it takes, with their values; None for any."""


SHORTCUTS = (
    Shortcut(
        "--resume",
        "Continue the run of a checkpoint; auto continues the run in run.folder, or begins one there.",
        option="ckpt_path",
        metavar="CHECKPOINT|auto",
    ),
    Shortcut(
        "--init-from",
        "Begin a new run with the weights of a file, or of a zoo (--model.weights).",
        option="model.weights",
        metavar="WEIGHTS",
    ),
    Shortcut(
        "--deterministic",
        "Give the same losses twice: seeded up to rounding, strict to the last bit (--trainer.deterministic).",
        option="trainer.deterministic",
        metavar="seeded|strict",
        words={"strict": True, "seeded": False},
    ),
    Shortcut("--trust-code", "Import the custom backbone that a checkpoint names."),
    Shortcut("--debug", "Show where an error was noticed."),
)


def add_shortcuts(parser: Any) -> None:
    """Add them to a parser of jsonargparse, which shows them in its help."""
    for shortcut in SHORTCUTS:
        parser.add_argument(shortcut.name, action=_Set, shortcut=shortcut, help=shortcut.help)


class _Set(argparse._HelpAction):
    """Sets the option that a shortcut stands for.

    A help action, since jsonargparse takes these for no settings and has no public class for such options.
    """

    def __init__(self, option_strings: Any, shortcut: Shortcut, help: str, **_: Any) -> None:
        argparse.Action.__init__(
            self,
            option_strings,
            dest=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
            nargs=None if shortcut.option else 0,
            metavar=shortcut.metavar,
            help=help,
        )
        self.shortcut = shortcut

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        _, _, option, _, words = self.shortcut
        if words is not None and values not in words:
            raise InputError(f"{option_string} {values}: must be {' or '.join(words)}")
        if option is not None:
            namespace.update(values if words is None else words[values], option)

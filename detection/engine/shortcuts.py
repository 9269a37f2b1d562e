"""Options of the command line that set another option, or that only change how the command runs."""

import argparse
from typing import Any, NamedTuple

from detection.engine.errors import InputError


class Shortcut(NamedTuple):
    """An option of the command line that is not a setting of a config."""

    name: str
    help: str
    option: str | None = None
    """Name of the option that it sets; None for a switch that :mod:`detection.cli` reads."""
    metavar: str | None = None
    words: dict[str, Any] | None = None
    """Allowed words with the values that they set; None: any value."""


SHORTCUTS = (
    Shortcut(
        "--resume",
        "Resume the run of a checkpoint; auto: resume the run in run.folder, or start a new one there.",
        option="ckpt_path",
        metavar="CHECKPOINT|auto",
    ),
    Shortcut(
        "--init-from",
        "Start a new run from the weights of a file or of a model zoo (--model.weights).",
        option="model.weights",
        metavar="WEIGHTS",
    ),
    Shortcut(
        "--deterministic",
        "Reproduce the losses of a run: seeded: up to rounding; strict: every bit (--trainer.deterministic).",
        option="trainer.deterministic",
        metavar="seeded|strict",
        words={"strict": True, "seeded": False},
    ),
    Shortcut("--trust-code", "Import the custom backbone that a checkpoint names."),
    Shortcut("--debug", "Show the traceback of an error."),
)


def add_shortcuts(parser: Any) -> None:
    """Add these options to a parser of jsonargparse, which shows them in its help."""
    for shortcut in SHORTCUTS:
        parser.add_argument(shortcut.name, action=_Set, shortcut=shortcut, help=shortcut.help)


class _Set(argparse._HelpAction):
    """Set the option of a shortcut.

    This is a help action, since jsonargparse does not treat those as settings and has no public class for such options.
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

"""Replace ``~/`` at the start of paths: a shell does so only at the start of a word, and never in a config file."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

_OPTION = re.compile(r"(--?[\w.-]+=)?(~[\w.-]*[/\\].*)", re.DOTALL)


def with_home(value: Any) -> Any:
    """Return a value with ``~/`` and ``~name/`` replaced by home folders, in strings, paths, lists and mappings.

    This includes options such as ``--option=~/...``. Keep a lone ``~``, which YAML reads as null, and the home of an
    unknown user.
    """
    if isinstance(value, str):
        found = _OPTION.fullmatch(value)
        return (found[1] or "") + os.path.expanduser(found[2]) if found else value
    if isinstance(value, PurePath):
        return type(value)(with_home(str(value)))
    if isinstance(value, list):
        return [with_home(one) for one in value]
    if isinstance(value, Mapping):
        return {key: with_home(one) for key, one in value.items()}
    return value


def command_line(arguments: Sequence[str] | None) -> list[str]:
    """Return the arguments of a program with home folders replaced; None: those of this process."""
    return [with_home(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]


def settle_home(settings: Any) -> None:
    """Replace ``~/`` in all settings of a namespace of jsonargparse, in place."""
    for key, value in list(settings.items()):
        settings[key] = with_home(value)

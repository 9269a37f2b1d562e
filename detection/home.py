"""``~/`` at the begin of paths: the shell replaces it only at the begin of a word, and never in a file."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

_OPTION = re.compile(r"(--?[\w.-]+=)?(~[\w.-]*[/\\].*)", re.DOTALL)


def with_home(value: Any) -> Any:
    """The same with home folders for ``~/`` and ``~name/``, in texts, ``--option=~/...``, lists and mappings.

    A lone ``~`` stays: YAML reads it as null. The home of an unknown user stays as it is.
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
    """The arguments of a program, those of the process if None."""
    return [with_home(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]


def settle_home(settings: Any) -> None:
    """Replace the home folder in all settings of a namespace of jsonargparse."""
    for key, value in list(settings.items()):
        settings[key] = with_home(value)

"""The commands of ``rcnn`` as functions, for tests: ``doctor(["my_data", "--decode"])``."""

from collections.abc import Callable, Sequence
from typing import Any

from detection.commands.main import main


def command(name: str) -> Callable[[Sequence[Any]], None]:
    """Return a function that runs a command with its arguments.

    It raises ``SystemExit`` with the exit code unless that is 0.
    """

    def run(arguments: Sequence[Any]) -> None:
        if code := main([name, *map(str, arguments)]):
            raise SystemExit(code)

    return run


backbones, browse, compare, convert, doctor = map(command, ("backbones", "browse", "compare", "convert", "doctor"))
evaluate, export, plot, predict = map(command, ("evaluate", "export", "plot", "predict"))

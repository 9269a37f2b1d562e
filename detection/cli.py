"""The command line: ``rcnn fit|validate|test|predict --config NAME --model.backbone.name resnet101 ...``.

Settings are checked before any data are read; a mistake is told in a few lines, and the exit code is 2.
Imports are late, so that a package that hides ours is noticed before it is imported.
"""

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

SUBCOMMANDS = ("fit", "validate", "test", "predict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: those of the process if None.

    Returns:
        The exit code: 0, 2 for something that the user should correct, 1 for a training that diverged.
    """
    if message := hidden_by_another():
        return _fail(message, 2)
    from detection.engine.errors import InputError, NonFiniteError

    before = sys.argv
    try:
        # Lightning reads sys.argv, also to start the processes of other devices.
        sys.argv = [before[0], *complete(list(before[1:] if arguments is None else arguments))]
        from detection.engine.command import Command

        Command()
    except InputError as error:
        return _fail(str(error), 2)
    except NonFiniteError as error:
        return _fail(str(error), 1)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        sys.argv = before
    return 0


def hidden_by_another() -> str | None:
    """Both packages have common names: a message if another one stands before ours on the path."""
    here = Path(__file__).resolve().parents[1]
    for name in ("detection", "backbones"):
        spec = find_spec(name)
        origin = None if spec is None else spec.origin
        if origin is None or Path(origin).resolve().parents[1] != here:
            return f"the package {name} beside {here} is hidden by {origin}; rename that one, or run from elsewhere"
    return None


def complete(arguments: list[str]) -> list[str]:
    """Put in what goes without saying: the subcommand fit, and the model settings of a checkpoint to evaluate.

    Raises:
        InputError: the checkpoint cannot be read.
    """
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        arguments = ["fit", *arguments]
    path = _value_of("--ckpt_path", arguments)
    if not arguments or arguments[0] not in SUBCOMMANDS or path in (None, "best", "last", "hpc", "null"):
        return arguments
    from detection.engine.checkpoint import checked_info, read_checkpoint
    from detection.engine.errors import user_input

    with user_input():
        info = checked_info(read_checkpoint(str(path), mmap=True), str(path))
    if arguments[0] == "fit":
        return arguments
    settings = "--config=" + json.dumps({"model": {**info["model"], "weights": None}})
    # After the configs, which it overrides, and before single settings, which override it.
    places = [i + 2 for i, argument in enumerate(arguments) if argument in ("-c", "--config")]
    places += [i + 1 for i, argument in enumerate(arguments) if argument.startswith("--config=")]
    place = max(places, default=1)
    return arguments if settings in arguments else [*arguments[:place], settings, *arguments[place:]]


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    value = None
    for i, argument in enumerate(arguments):
        if argument == option and i + 1 < len(arguments):
            value = arguments[i + 1]
        elif argument.startswith(option + "="):
            value = argument.removeprefix(option + "=")
    return value


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code

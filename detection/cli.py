"""The command line: ``rcnn fit|validate|test|predict --config NAME --model.backbone.name resnet101 ...``.

Settings are checked before any data are read; a mistake is told in a few lines, and the exit code is 2. ``--debug``
shows where it was noticed.
Imports are late, so that a package that hides ours is noticed before it is imported.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from detection.engine.startup import ending_at_signals, is_first_rank, signalled
from detection.home import command_line, with_home
from detection.memory import begin_without_crumbs

SUBCOMMANDS = ("fit", "validate", "test", "predict")


_failed = False


def command() -> int:
    """The program ``rcnn``, and ``tools/train.py``: :func:`main` in a process that is made for it."""
    with ending_at_signals():
        try:
            begin_without_crumbs()
            sys.unraisablehook = _unraisable
            return main()
        except KeyboardInterrupt:  # before main, or after it
            return _stopped()
        finally:
            _leave_the_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: those of the process if None.

    Returns:
        The exit code: 0; 2 for something that the user should correct; 1 for a training that diverged or lost a
        worker; 128 plus its number for a signal that stopped the training.
    """
    if message := hidden_by_another():
        return _fail(message, 2)
    with ending_at_signals():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    before = sys.argv
    given = command_line(arguments)
    debug = "--debug" in given
    try:
        # Lightning reads sys.argv, also to start the processes of other devices.
        sys.argv = [before[0], *complete([argument for argument in given if argument != "--debug"])]
        from detection.engine.command import Command

        Command()
    except KeyboardInterrupt:
        return _stopped()
    except SystemExit as error:  # Lightning's, too, after a KeyboardInterrupt
        return _stopped() if signalled() else error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:
        if signalled() and not hasattr(error, "code"):  # some imports make another error of it
            return _stopped()
        from detection.engine.errors import told

        message, code = told(error)
        if debug or code is None:
            raise
        return _fail(message, code)
    finally:
        sys.argv = before
    return 0


def _leave_the_group() -> None:
    """Lightning does so with NCCL alone; of gloo, threads would be left, which can abort the interpreter's own end."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


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
    """Put in what goes without saying: the subcommand fit, and the settings that trained weights ask for.

    Raises:
        InputError: the checkpoint or the weights cannot be read.
    """
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        arguments = ["fit", *arguments]
    if arguments and arguments[0] == "train":
        arguments = ["fit", *arguments[1:]]
    if not arguments or arguments[0] not in SUBCOMMANDS:
        return arguments
    trust_code = "--trust-code" in arguments
    arguments = _deterministic(_resume([argument for argument in arguments if argument != "--trust-code"]))
    trusted = trust_code or _named_backbone(arguments) or False
    path = _value_of("--ckpt_path", arguments)
    reference = _value_of("--model.weights", arguments) or _in_configs(arguments, "model", "weights")
    started_from_weights = reference not in (None, "null", "")
    if path not in (None, "best", "last", "hpc", "null"):
        # A resumed run keeps its configs, unless weights had overridden them.
        taken = arguments[0] != "fit" or started_from_weights
        settings = _settings_of_checkpoint(str(path), trusted or not taken)
        return _with_settings(arguments, settings, trust_code) if taken else arguments
    if not started_from_weights:
        return arguments
    return _with_settings(arguments, _settings_of_weights(str(reference), arguments[0] == "fit", trusted), trust_code)


def _named_backbone(arguments: Sequence[str]) -> str | None:
    """The backbone that the user names on the command line or in a config file."""
    return _value_of("--model.backbone.name", arguments) or _in_configs(arguments, "model", "backbone", "name")


def _resume(arguments: list[str]) -> list[str]:
    """``--resume PATH`` goes on with a run, ``--resume auto`` with the one in run.folder if there is one.

    ``--init-from`` takes weights alone.

    Raises:
        InputError: auto without a folder to look in, or with one that cannot be looked into.
    """
    from detection.engine.errors import InputError, user_input
    from detection.engine.run import checkpoint_in

    renamed = {"--resume": "--ckpt_path", "--init-from": "--model.weights"}
    split = [part for a in arguments for part in (a.split("=", 1) if a.split("=")[0] in renamed else [a])]
    if "--resume" in split[:-1] and split[split.index("--resume") + 1] == "auto":
        place, folder = split.index("--resume"), _value_of("--run.folder", split) or _in_configs(split, "run", "folder")
        if folder is None:
            raise InputError("--resume auto looks into the run's folder; say which with --run.folder")
        with user_input():
            found = checkpoint_in(folder)
        split[place : place + 2] = [] if found is None else ["--resume", str(found)]
    return [renamed.get(part, part) for part in split]


def _deterministic(arguments: list[str]) -> list[str]:
    """``--deterministic seeded`` gives the same losses twice up to rounding, ``strict`` to the last bit.

    Raises:
        InputError: another word.
    """
    from detection.engine.errors import InputError

    given = []
    words = {"strict": "true", "seeded": "false"}
    rest = iter(arguments)
    for argument in rest:
        if argument.split("=")[0] != "--deterministic":
            given.append(argument)
            continue
        word = argument.split("=", 1)[1] if "=" in argument else next(rest, "")
        if word not in words:
            raise InputError(f"--deterministic {word}: must be strict or seeded")
        given.append(f"--trainer.deterministic={words[word]}")
    return given


def _settings_of_checkpoint(path: str, trust_code: bool | str) -> dict[str, Any]:
    from detection.checkpoint import checked_info, outline_checkpoint, plain
    from detection.checkpoint_schema import restore_configs
    from detection.engine.errors import user_input

    with user_input():
        configs = restore_configs(checked_info(outline_checkpoint(path), path), path, trust_code)
    model = {part: plain(asdict(value)) for part, value in configs.items()}
    return {"model": {**model, "mask_head": model.get("mask_head"), "weights": None}}


def _settings_of_weights(reference: str, fit: bool, trust_code: bool | str) -> dict[str, Any]:
    """The model that the weights belong to; to evaluate them also how their images are resized."""
    from detection.checkpoint import plain
    from detection.convert.pretrained import load_pretrained
    from detection.engine.errors import user_input

    with user_input():
        found = load_pretrained(reference, trust_code)
    model = plain({part: value and asdict(value) for part, value in vars(found.config).items()})
    if fit and model["mask_head"] is None:
        del model["mask_head"]  # the weights of a Faster R-CNN may begin a Mask R-CNN
    data = {"short_side": found.test_size[0], "long_side": found.test_size[1], "resize": found.resize}
    if found.depth != 8:
        data["depth"] = found.depth
    return {"model": model} | ({} if fit else {"data": data})


def _with_settings(arguments: list[str], settings: Mapping[str, Any], trust_code: bool) -> list[str]:
    """Settings come after the configs, which they override, and before single options, which override them.

    ``--trust-code`` becomes the name that it trusts, as other processes of the run get the completed line.
    """
    added = ["--config=" + json.dumps(settings)]
    if trust_code and _value_of("--model.backbone.name", arguments) is None:
        added.append(f"--model.backbone.name={settings['model']['backbone']['name']}")
    places = [i + 2 for i, argument in enumerate(arguments) if argument in ("-c", "--config")]
    places += [i + 1 for i, argument in enumerate(arguments) if argument.startswith("--config=")]
    place = max(places, default=1)
    return arguments if added[0] in arguments else [*arguments[:place], *added, *arguments[place:]]


def _in_configs(arguments: Sequence[str], *keys: str) -> str | None:
    """What the last of the config files that sets a key sets it to; inline configs, which may be of a file, not."""
    from detection.documents import LARGEST_YAML, read_text
    from detection.engine.configs import find_config, load_yaml

    found = None
    for option, name in zip(arguments, [*arguments[1:], ""], strict=True):
        if option.startswith("--config="):
            name = option.removeprefix("--config=")
        elif option not in ("-c", "--config"):
            continue
        try:
            content = load_yaml(read_text(find_config(name), LARGEST_YAML)) or {}
            for key in keys[:-1]:
                content = content.get(key) or {}
            found = with_home(content.get(keys[-1], found))
        except (OSError, AttributeError, ValueError):
            continue  # the parser reports it
    return found


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    value = None
    for i, argument in enumerate(arguments):
        if argument == option and i + 1 < len(arguments):
            value = arguments[i + 1]
        elif argument.startswith(option + "="):
            value = argument.removeprefix(option + "=")
    return value


def _stopped() -> int:
    message, code = signalled() or ("stopped by SIGINT", 130)
    return _fail(message, code) if is_first_rank() else code


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """What fails as objects go is no news after the error that ended the command."""
    if not _failed:
        sys.__unraisablehook__(unraisable)


def _fail(message: str, code: int) -> int:
    global _failed
    _failed = True
    from detection.foreign import printable

    print(f"error: {printable(message)}", file=sys.stderr)
    return code

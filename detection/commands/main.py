"""The program ``rcnn``: find a command by its name, read its options, and run it.

This module has no slow imports: ``rcnn --help`` needs no PyTorch.
"""

import argparse
import os
import select
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from detection import __version__
from detection.commands.options import SHARED, add_shared, with_long_sides
from detection.commands.printing import fail, json_alone, note
from detection.engine.lightning_mends.processes import leave_process_group
from detection.engine.startup import ending_at_signals, is_first_rank, report_stop, signalled, signals_delayed
from detection.foreign import is_number
from detection.home import command_line
from detection.memory import restart_with_glibc_setting
from detection.quiet import quiet
from detection.shadowed import hidden_by_another

COMMANDS = {
    "train": "train a detector on your data, or on COCO",
    "validate": "compute the COCO metrics of a model on the validation images",
    "test": "compute the COCO metrics of a model on the test images",
    "predict": "find objects in images, folders and videos",
    "evaluate": "score a model or result files, and write a report",
    "compare": "compare two evaluations, with confidence intervals",
    "doctor": "check a data set, and whether a model's settings fit it",
    "browse": "show images of a data set, before and after augmentation",
    "convert": "convert annotations between COCO, YOLO, VOC and LVIS",
    "split": "split a data set into training, validation and test images",
    "plot": "draw the curves of one or more runs",
    "serve": "serve a model over HTTP, with a page to try it in a browser",
    "export": "write a model to a file for other programs",
    "backbones": "list, describe and time backbones",
    "models": "list the published weights that the toolkit can load",
    "configs": "list and show the configurations that come with the toolkit",
    "benchmark": "time a model on this machine",
    "demo": "draw a small data set, train on it and look at the result",
    "env": "print versions and hardware, for a bug report",
}
"""What each command does, in the order of the help text."""

OLD = {"fit": "train", "backbone": "backbones"}
"""Former names, which still work."""

LIGHTNING = ("fit", "validate", "test", "predict")
"""Subcommands that ``tools/train.py`` accepts as its first word; without one, it trains."""

SWITCHES = ("--debug", "-q", "--quiet")
"""Options of every command, at any position on the line."""

MANY_STEPS = {"train", "validate", "test", "predict", "evaluate", "serve"}
"""Commands that need a process with less fragmented memory; see :func:`restart_with_glibc_setting`."""


def command(name: str | None = None) -> int:
    """Run the program ``rcnn`` in a separate process, and return the exit code.

    Args:
        name: name of the command, for a separate program such as ``tools/train.py``; None: the first argument.
    """
    try:
        with ending_at_signals():
            given = sys.argv[1:]
            if name is not None and not (name == "train" and given[:1] and given[0] in LIGHTNING):
                given = [name, *given]
            first = OLD.get(given[0], given[0]) if given else ""
            if (first in MANY_STEPS or first.startswith("-")) and not {"-h", "--help"} & {*given}:
                with signals_delayed():
                    restart_with_glibc_setting()
            code = main(given)
            if code:  # errors of objects that Python deletes at its end are no news after this one
                sys.unraisablehook = lambda _: None
            return code
    except KeyboardInterrupt:  # before main, or after it
        return report_stop()
    finally:
        leave_process_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: of the command line, without the program's name; those of the process if None.

    Returns:
        The exit code:

        - 0: no error;
        - 1: a training diverged or lost a worker;
        - 2: the user can correct the error;
        - 3: the result is not complete;
        - 128 plus N: signal N stopped the program.
    """
    given = command_line(arguments)
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        return 0
    if given[0] == "--version":
        print(f"rcnn-toolkit {__version__}")
        return 0
    name, rest = (given[0], given[1:]) if not given[0].startswith("-") else ("train", given)
    if name in OLD and is_first_rank():
        note(f"note: rcnn {name} is rcnn {OLD[name]} now; both work")
    name = OLD.get(name, name)
    if name not in COMMANDS:
        near = get_close_matches(name, [*COMMANDS, *OLD], 1)
        return fail(f"{name}: no such command{f'; did you mean {near[0]}?' if near else ''} See rcnn --help")
    if message := hidden_by_another():
        return fail(message)
    with ending_at_signals():
        return _run(name, rest)


def _run(name: str, given: list[str]) -> int:
    """Run a command of :data:`COMMANDS`; return the exit code."""
    debug = "--debug" in given
    silent = bool({"-q", "--quiet"} & {*given})
    splits = name == "predict" and {"-c", "--config", "--ckpt_path"} & {word.split("=")[0] for word in given}

    def act() -> int:
        if splits:
            instead = "if they have annotations, `rcnn test MODEL` does the same"
            note(f"note: this is the old form of rcnn predict, for the images of data.test; {instead}")
            return int(import_module("detection.commands.predict").predict_split(given))
        module = import_module(f"detection.commands.{name}")
        parser = parser_of(name, module)
        words = getattr(module, "prepare", list)([word for word in given if word not in SWITCHES])
        options = parse(parser, words, settings=getattr(module, "TAKES_SETTINGS", False))
        options.given, options.debug, options.quiet = words, debug, silent
        if silent and getattr(options, "verbose", False):
            raise ValueError("give --quiet or --verbose, not both")
        with json_alone(getattr(options, "json", None)), quiet(silent):
            return int(module.run(options) or 0)

    return exit_code(act, debug, trains=bool(splits) or name in ("train", "validate", "test"))


def exit_code(act: Callable[[], int], debug: bool, trains: bool) -> int:
    """Call a function, report an error in one line, and return the exit code.

    Args:
        act: function that returns an exit code.
        debug: raise the error instead of reporting it.
        trains: keep the traceback of an error that the user cannot correct.
    """
    try:
        return act()
    except KeyboardInterrupt as stop:
        return report_stop(str(stop))
    except SystemExit as stop:  # from a parser, or from Lightning after a KeyboardInterrupt
        return report_stop() if signalled() else stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        if signalled() and not hasattr(error, "code"):  # some imports raise another error after a signal
            return report_stop()
        from detection.engine.errors import user_message

        message, code = user_message(error)
        if code is None and not trains and isinstance(error, OSError | ValueError | ImportError):
            code = 2
        if debug or code is None:
            raise
        return fail(message, code)


def _output_is_closed() -> bool:
    """Return whether the reader of the output has closed it, as ``head`` does; workers may also raise broken pipes."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    # A write that failed may have left nothing to flush.
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except (AttributeError, OSError):  # Windows has no poll; in tests, the output is not a file
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


class Parser(argparse.ArgumentParser):
    """Parse options without abbreviations, and report an error in one line with the most similar option."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            wrong = message.removeprefix("unrecognized arguments: ").split()[0]
            known = [flag for action in self._actions for flag in action.option_strings]
            near = get_close_matches(wrong.split("=")[0], known, 1)
            message = f"{wrong}: no such option{f'; did you mean {near[0]}?' if near else ''}"
        from detection.engine.errors import InputError

        raise InputError(f"{message[:1].lower()}{message[1:]}. See {self.prog} --help")


def parser_of(name: str, module: ModuleType | None = None) -> Parser:
    """Return the parser of a command.

    Args:
        name: name of the command.
        module: module of the command; None: import it.
    """
    module = module or import_module(f"detection.commands.{name}")
    parser = Parser(
        prog=f"rcnn {name}",
        description=(module.__doc__ or "").strip(),
        epilog=getattr(module, "EPILOG", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_options(parser)
    add_shared(parser, "quiet", "debug")
    return parser


def parse(parser: argparse.ArgumentParser, given: Sequence[str], settings: bool = False) -> argparse.Namespace:
    """Parse the options of a command.

    Args:
        parser: parser of the command.
        given: words of the command line after the command.
        settings: the command also accepts the settings of a training, such as ``--data.root``. Options that the parser
            does not know, each with the words up to the next option, are then the attribute ``rest``.
    """
    if any(action.metavar == SHARED["size"]["metavar"] for action in parser._actions):
        given = with_long_sides(given)
    if not settings:
        return parser.parse_args(given)
    known = {flag for action in parser._actions for flag in action.option_strings}
    ours: list[str] = []
    rest: list[str] = []
    into = ours
    for word in given:
        if word.startswith("-") and not is_number(word):
            into = ours if word.split("=")[0] in known else rest
        into.append(word)
    options = parser.parse_args(ours)
    options.rest = rest
    return options


def overview() -> str:
    """Return the text of ``rcnn --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {does}" for name, does in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rcnn COMMAND ...",
            "",
            "Train, evaluate and use models that find objects: Mask R-CNN, RetinaNet and others, with any backbone.",
            "",
            "commands:",
            *lines,
            "",
            "`rcnn COMMAND --help` explains a command; `rcnn --version` prints the version.",
            "A first example, which needs no data: rcnn demo",
        ]
    )

"""The command line of ``tools/backbone.py``."""

import argparse
import json
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch

import backbones
from detection.backbone_tool import residual, speed
from detection.backbone_tool.describe import describe
from detection.home import command_line
from detection.wording import plural


def main(arguments: list[str] | None = None) -> None:
    """List, show, measure or compare; what is wrong with the input is said in one line."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        options.run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _list(options: argparse.Namespace) -> None:
    names = backbones.available()
    if options.word:
        names += [f"timm/{name}" for name in _timm_names()]
    found = [name for name in names if options.word.lower() in name.lower()]
    if not found:
        backbones.check_name(options.word)
        raise ValueError(f"no backbone's name holds {options.word}")
    print("\n".join(found))
    if not options.word:
        print(f"and {len(_timm_names())} names of timm, as in `list convnext`", file=sys.stderr)


def _timm_names() -> list[str]:
    from backbones.timm_adapter import timm_names

    return timm_names()


def _show(options: argparse.Namespace) -> None:
    print(describe(options.name, *options.size))


def _benchmark(options: argparse.Namespace) -> None:
    for name in options.names:
        backbones.check_name(name)
    passed = [f"--side={options.side}", f"--batch={options.batch}", f"--rounds={options.rounds}"]
    passed += [f"--precision={options.precision}", f"--threads={torch.get_num_threads()}"]
    given = [word for word in options.given[1:] if word != "--resume"]
    asked = " ".join(["tools/backbone.py", "benchmark", *map(shlex.quote, given)])
    about = (
        f"Mask R-CNN with FPN, {options.side} pixels on the shortest side, {plural(options.batch, 'image')} per step, "
        f"{options.precision}, untrained; median of {plural(options.rounds, 'step')}; inference finds nothing, so that "
        "no masks are made; peak memory of training, weights included; parameters and GFLOPs (a multiply-add is one, "
        "at 800 x 1333) of the backbone alone. "
        f"{speed.machine()}. Made by `{asked}`."
    )
    about = textwrap.fill(about, 120, break_long_words=False, break_on_hyphens=False)
    known: dict[str, str] = {}
    if options.resume and not options.into:
        raise ValueError("--resume goes on with the table of a file; name it by --into")
    if options.into:
        speed.around(options.into)  # rather before than after an hour
        known = speed.measured(options.into, about) if options.resume else {}

    def write(rows: Sequence[str]) -> None:
        if options.into:
            speed.insert("\n".join([about, "", *rows]), options.into)

    rows = speed.table(options.names, passed, 60 * options.minutes, known, write)
    if not options.into:
        print("\n".join([about, "", *rows]))


def _measure(options: argparse.Namespace) -> None:
    print(json.dumps(speed.measure(options.name, options.side, options.batch, options.rounds, options.precision)))


def _gradients(options: argparse.Namespace) -> None:
    data = residual.pictures(options.pictures, options.side, options.seed)
    curves = []
    for depth in options.depths:
        for name in (f"plain{depth}", f"resnet{depth}"):
            curve = residual.learn(
                name, data, options.steps, options.batch, options.lr, options.width, options.seed, options.every
            )
            curves.append(curve)
            print(
                f"{name}: training error {100 * curve.errors[0]:.1f}% at first, {100 * curve.errors[-1]:.1f}% at last"
            )
    residual.write_csv(curves, options.output.with_suffix(".csv"))
    title = f"{plural(options.pictures, 'drawn picture')} of {options.side} px, {plural(options.steps, 'step')}, "
    title += f"seed {options.seed}"
    residual.plot(curves, options.output.with_suffix(".png"), title)
    print(f"written: {options.output.with_suffix('.png')}, {options.output.with_suffix('.csv')}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    given = command_line(arguments)
    parser = argparse.ArgumentParser(prog="backbone.py", description="Backbones: names, costs, and why residual.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    names = commands.add_parser("list", help="names; with a word, those that hold it, timm's too")
    names.add_argument("word", nargs="?", default="")
    names.set_defaults(run=_list)

    show = commands.add_parser("show", help="stages, parameters, GFLOPs, receptive field, memory")
    show.add_argument("name")
    show.add_argument("--size", type=_positive, nargs=2, default=[800, 1333], metavar=("HEIGHT", "WIDTH"))
    show.set_defaults(run=_show)

    benchmark = commands.add_parser("benchmark", help="a Markdown table: speed and memory of Mask R-CNN with each")
    benchmark.add_argument("--names", nargs="+", default=list(speed.NAMES))
    benchmark.add_argument("--into", type=Path, help="put the table between the marks of this file, row by row")
    benchmark.add_argument("--resume", action="store_true", help="keep the rows that the same command left there")
    benchmark.add_argument("--minutes", type=float, default=10, help="give up a backbone that takes longer")
    benchmark.set_defaults(run=_benchmark)
    measure = commands.add_parser("measure", help="one row of benchmark, as JSON")
    measure.add_argument("name")
    measure.set_defaults(run=_measure)
    for command in (benchmark, measure):
        command.add_argument("--side", type=_positive, default=800, help="shortest side of the images")
        command.add_argument("--batch", type=_positive, default=1)
        command.add_argument("--rounds", type=_positive, default=3)
        command.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")

    gradients = commands.add_parser("gradients", help="train plain and residual networks side by side")
    gradients.add_argument("--depths", type=int, nargs="+", choices=[18, 34, 50], default=[18, 34])
    gradients.add_argument("--steps", type=_positive, default=1000)
    gradients.add_argument("--every", type=_positive, default=25, help="steps between entries of the curves")
    gradients.add_argument("--seed", type=int, default=0)
    gradients.add_argument("--batch", type=_positive, default=32)
    gradients.add_argument("--lr", type=float, default=0.02)
    gradients.add_argument("--width", type=_positive, default=16, help="channels of the first stage; 64 in the paper")
    gradients.add_argument("--side", type=_positive, default=32, help="of the pictures, in pixels")
    gradients.add_argument("--pictures", type=_positive, default=2048)
    gradients.add_argument("--output", type=Path, default=Path("residual"), help="without suffix")
    gradients.set_defaults(run=_gradients)
    for command in commands.choices.values():
        command.add_argument("--threads", type=_positive, help="of the processor; all if not given")
    options = parser.parse_args(given)
    options.given = given
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value

"""List, describe, probe, convert and time backbones, and show why residual networks train better.

`list` prints the names that `--model.backbone.name` accepts. `list WORD` prints those that contain a word, including
the names of timm.
"""

import argparse
import json
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detection.commands.options import add_shared
from detection.commands.printing import write_json
from detection.wording import plural

EPILOG = """\
example:
  rcnn backbones list convnext
  rcnn backbones show resnet101
  rcnn backbones probe runs/flowers --data flowers
  rcnn backbones benchmark --names resnet18 resnet50 --side 320"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add a parser for each word that may follow."""
    commands = parser.add_subparsers(required=True, metavar="list|show|probe|convert|benchmark|gradients|why-residual")

    names = commands.add_parser("list", help="print names; with a word, those that contain it, timm's too")
    names.add_argument("word", nargs="?", default="", metavar="WORD", help="a part of the names to print")
    names.set_defaults(action=_list)

    show = commands.add_parser("show", help="print stages, parameters, GFLOPs, receptive field, memory")
    show.add_argument("name", metavar="NAME", help="name of a backbone")
    size: dict[str, Any] = {"type": _positive, "nargs": 2, "default": [800, 1333], "metavar": ("HEIGHT", "WIDTH")}
    show.add_argument("--size", **size, help="size of the image in pixels")
    show.set_defaults(action=_show)

    probe = commands.add_parser("probe", help="score the features of a frozen network on labelled images")
    probe.add_argument("name", metavar="NAME", help="name of a backbone, or a run of a classifier or of a pretraining")
    probe.add_argument("--data", required=True, metavar="DATA", help="class folders, a CSV file, or a detector's data")
    probe.add_argument("--weights", metavar="WEIGHTS", help="of a name: imagenet, or a file (default random)")
    probe.add_argument("--val-fraction", type=float, default=0.2, metavar="F", help="images to test on (default 0.2)")
    add_shared(probe, "batch", "workers", "device", "seed", "json", batch={"default": 64}, workers={"default": 0})
    probe.set_defaults(action=_probe)

    convert = commands.add_parser("convert", help="write weights of another package as a file for backbone.weights")
    convert.add_argument("file", type=Path, metavar="FILE", help="state dict of a classifier or backbone")
    convert.add_argument("--name", required=True, metavar="NAME", help="backbone that the weights are for")
    convert.add_argument("--output", type=Path, required=True, metavar="FILE", help="file to write: .safetensors")
    convert.add_argument("--source", required=True, metavar="TEXT", help="package and version, or address")
    convert.add_argument("--licence", required=True, metavar="TEXT", help="licence of the weights")
    convert.set_defaults(action=_convert)

    benchmark = commands.add_parser("benchmark", help="print a Markdown table: speed and memory of Mask R-CNN")
    benchmark.add_argument("--names", nargs="+", default=[], metavar="NAME", help="backbones to time (default many)")
    into = "write the table between the marks of this file, row by row"
    benchmark.add_argument("--into", type=Path, metavar="FILE", help=into)
    benchmark.add_argument(
        "--resume", action="store_true", help="keep the rows that the same command wrote there before"
    )
    benchmark.add_argument(
        "--minutes", type=float, default=10, metavar="N", help="time limit for one backbone (default 10)"
    )
    benchmark.set_defaults(action=_benchmark)
    measure = commands.add_parser("measure", help="print one row of benchmark, as JSON")
    measure.add_argument("name", metavar="NAME", help="name of a backbone")
    measure.set_defaults(action=_measure)
    for command in (benchmark, measure):
        _add_count(command, "--side", 800, "shortest side of the images, in pixels")
        _add_count(command, "--batch", 1, "images at a time")
        _add_count(command, "--rounds", 3, "steps to take the median of")
        command.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="number format")

    gradients = commands.add_parser("gradients", help="train plain and residual networks side by side")
    depths: dict[str, Any] = {"type": int, "nargs": "+", "choices": [18, 34, 50], "default": [18, 34]}
    gradients.add_argument("--depths", **depths, help="numbers of layers (default 18 34)")
    _add_count(gradients, "--steps", 1000, "training steps")
    _add_count(gradients, "--every", 25, "steps between points of the curves")
    gradients.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything random (default 0)")
    _add_count(gradients, "--batch", 32, "images per step")
    gradients.add_argument("--lr", type=float, default=0.02, metavar="RATE", help="learning rate (default 0.02)")
    _add_count(gradients, "--width", 16, "channels of the first stage, 64 in the paper")
    _add_count(gradients, "--side", 32, "side of the drawn images, in pixels")
    _add_count(gradients, "--pictures", 2048, "drawn images")
    output = "file to write, without suffix (default residual)"
    gradients.add_argument("--output", type=Path, default=Path("residual"), metavar="FILE", help=output)
    gradients.set_defaults(action=_gradients)

    why = commands.add_parser(
        "why-residual", help="train, count, and write a page that shows why networks are residual"
    )
    why.add_argument("--output", type=Path, default=Path("why_residual"), metavar="DIR", help="folder to write")
    why.add_argument("--depths", **depths | {"default": [18, 34, 50]}, help="numbers of layers (default 18 34 50)")
    _add_count(why, "--steps", 1000, "steps of each training")
    _add_count(why, "--every", 25, "steps between points of the curves")
    _add_count(why, "--width", 16, "channels of the first stage, 64 in the paper")
    _add_count(why, "--pictures", 2048, "drawn images")
    _add_count(why, "--seeds", 5, "seeds of each training with little data")
    _add_count(why, "--first-steps", 1000, "steps of the training whose weights are transferred")
    _add_count(why, "--transfer-steps", 150, "steps of each training with little data")
    counts: dict[str, Any] = {"type": _positive, "nargs": "+", "default": [16, 64, 256], "metavar": "N"}
    why.add_argument("--counts", **counts, help="images of the trainings with little data (default 16 64 256)")
    why.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything else (default 0)")
    why.set_defaults(action=_why_residual)
    for command in commands.choices.values():
        command.add_argument("--threads", type=_positive, metavar="N", help="CPU threads (default all)")


def _add_count(parser: argparse.ArgumentParser, flag: str, default: int, what: str) -> None:
    """Add an option that takes a positive number."""
    parser.add_argument(flag, type=_positive, default=default, metavar="N", help=f"{what} (default {default})")


def run(options: argparse.Namespace) -> None:
    """Run the action of the word that the user typed."""
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    options.action(options)


def _list(options: argparse.Namespace) -> None:
    import backbones

    names = backbones.available()
    if options.word:
        names += [f"timm/{name}" for name in _timm_names()]
    found = [name for name in names if options.word.lower() in name.lower()]
    if not found:
        backbones.check_name(options.word)
        raise ValueError(f"no backbone has {options.word} in its name")
    print("\n".join(found))
    if not options.word:
        print(f"and {len(_timm_names())} names of timm, as in `list convnext`", file=sys.stderr)


def _timm_names() -> list[str]:
    from backbones.timm_adapter import timm_names

    return timm_names()


def _show(options: argparse.Namespace) -> None:
    from detection.backbone_tool.describe import describe

    print(describe(options.name, *options.size))


def _probe(options: argparse.Namespace) -> None:
    from detection.commands.image_data import image_settings
    from detection.device import inference_device
    from detection.engine.classify.probing import network, open_images, probe

    if options.batch < 1 or options.workers < 0:
        raise ValueError(f"--batch {options.batch} must be at least 1, and --workers {options.workers} at least 0")
    model = network(options.name, options.weights).to(inference_device(options.device))
    settings = dict(image_settings(options.data, options.val_fraction, options.seed))
    settings |= {"--data.seed": str(options.seed)}
    train, val = open_images({name.removeprefix("--data."): value for name, value in settings.items()}, model)
    found = probe(model, train, val, options.batch, options.workers)
    print(f"{options.name}: trained on {plural(len(train), 'image')}, tested on {plural(len(val), 'image')}\n")
    print("| classifier of the features | top-1 in percent | 95 % interval |\n| --- | ---: | ---: |")
    print("\n".join(one.row() for one in found))
    summary = {"train": len(train), "val": len(val), "top1": {one.name: one.top1 for one in found}}
    write_json({"network": options.name, **summary}, options.json)


def _benchmark(options: argparse.Namespace) -> None:
    import torch

    import backbones
    from detection.backbone_tool import speed

    options.names = options.names or list(speed.NAMES)
    for name in options.names:
        backbones.check_name(name)
    passed = [f"--side={options.side}", f"--batch={options.batch}", f"--rounds={options.rounds}"]
    passed += [f"--precision={options.precision}", f"--threads={torch.get_num_threads()}"]
    given = [word for word in options.given if word != "--resume"]
    asked = " ".join(["rcnn", "backbones", *map(shlex.quote, given)])
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
        raise ValueError("--resume continues the table of a file; name the file with --into")
    if options.into:
        speed.around(options.into)  # fails now, and not after an hour
        known = speed.measured(options.into, about) if options.resume else {}

    def write(rows: Sequence[str]) -> None:
        if options.into:
            speed.insert("\n".join([about, "", *rows]), options.into)

    rows = speed.table(options.names, passed, 60 * options.minutes, known, write)
    if not options.into:
        print("\n".join([about, "", *rows]))


def _measure(options: argparse.Namespace) -> None:
    from detection.backbone_tool import speed

    print(json.dumps(speed.measure(options.name, options.side, options.batch, options.rounds, options.precision)))


def _convert(options: argparse.Namespace) -> None:
    from detection.backbone_tool.weights import Origin, convert

    found = convert(options.file, options.name, options.output, Origin(options.source, options.licence))
    print(
        f"written: {options.output}, for --model.backbone.name {options.name} --model.backbone.weights {options.output}"
    )
    print("\n".join(f"{key}: {value}" for key, value in found.items()))


def _gradients(options: argparse.Namespace) -> None:
    from detection.backbone_tool import residual

    data = residual.make_images(options.pictures, options.side, options.seed)
    curves = []
    for depth in options.depths:
        for name in (f"plain{depth}", f"resnet{depth}"):
            curve = residual.train(
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


def _why_residual(options: argparse.Namespace) -> None:
    from detection.backbone_tool import why_residual
    from detection.provenance import command_line

    experiment = why_residual.Experiment(
        depths=tuple(options.depths),
        steps=options.steps,
        every=options.every,
        width=options.width,
        images=options.pictures,
        counts=tuple(options.counts),
        seeds=options.seeds,
        first_steps=options.first_steps,
        transfer_steps=options.transfer_steps,
        seed=options.seed,
    )
    page = why_residual.write(options.output, experiment, why_residual.run(experiment), command_line())
    print(f"written: {page}")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value

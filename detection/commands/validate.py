"""Compute the COCO metrics of a model on the validation images, as training does.

The settings, and the data unless `--data` says otherwise, are those of the model's run. Any setting of the
configuration is an option, too. `rcnn evaluate` takes any annotation file and writes a report.
"""

import argparse
from pathlib import Path

from detection.commands.options import DATA, MODEL, add_shared
from detection.commands.train import check_settings, data_settings, simple_settings

TAKES_SETTINGS = True
EPILOG = """\
example:
  rcnn validate runs/first
  rcnn validate torchvision:maskrcnn_resnet50_fpn_v2 --data datasets/coco"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rcnn validate` and `rcnn test`."""
    unset = {"default": None}
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL)
    parser.add_argument("--data", metavar="PATH", help=DATA)
    add_shared(parser, "output", output={"help": "folder for the results"})
    add_shared(parser, "batch", "size", "device", "precision", "workers", "trust_code", device=unset, precision=unset)
    parser.add_argument("--help-all", action="store_true", help="print every setting")


def run(options: argparse.Namespace) -> int:
    """Validate as the options say."""
    return evaluate(options, "validate", "val")


def evaluate(options: argparse.Namespace, subcommand: str, split: str) -> int:
    """Run an evaluation of Lightning's on a split."""
    from detection import cli

    return cli.main([subcommand, "--help"] if options.help_all else [subcommand, *settings(options, split)])


def settings(options: argparse.Namespace, split: str) -> list[str]:
    """Return the settings that the options stand for, then those of the user, which override them."""
    check_settings(options.rest)
    pairs: list[tuple[str, str]] = []
    if options.model is not None:
        config, weights = _model(options.model)
        if config is not None and "--config" not in options.rest:
            pairs.append(("--config", str(config)))
        pairs.append(weights)
    if options.data is not None:
        pairs += data_settings(options.data, need=(split,))
    if options.output is not None:
        pairs.append(("--run.folder", str(options.output)))
    if options.batch is not None:
        pairs.append(("--data.eval_batch_size", str(options.batch)))
    pairs += simple_settings(options)
    flags = [f"--{name.replace('_', '-')}" for name in ("trust_code", "debug") if getattr(options, name)]
    return [part for pair in pairs for part in pair] + flags + options.rest


def _model(model: str) -> tuple[Path | None, tuple[str, str]]:
    """Return the config of a model's run, if there is one, and the setting that names its weights."""
    from detection.convert.pretrained import checkpoint_of

    place = Path(model)
    if not place.exists() or place.suffix == ".safetensors":
        return None, ("--model.weights", model)
    checkpoint = checkpoint_of(place) if place.is_dir() else place
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        if (folder / "config.yaml").is_file():
            return folder / "config.yaml", ("--ckpt_path", str(checkpoint))
    return None, ("--ckpt_path", str(checkpoint))

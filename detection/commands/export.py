"""Write a model to one file for other programs, or the mean of several models.

The formats are safetensors (weights, classes and settings) and torchvision (its layout, weights alone). The ending of
the file's name chooses: .safetensors or .pth.
"""

import argparse
from pathlib import Path

from detection.commands.options import MODEL, add_shared
from detection.wording import plural

EPILOG = """\
example:
  rcnn export runs/first --output detector.safetensors"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help=f"{MODEL}; with several, the command writes the mean of their weights",
    )
    output = {"metavar": "FILE", "help": "file to write; without this option, the last MODEL names it"}
    add_shared(parser, "output", "trust_code", output=output)
    parser.add_argument("--format", metavar="NAME", help="safetensors or torchvision (default by the name's ending)")


def run(options: argparse.Namespace) -> None:
    """Load the models, average their weights, and write the file."""
    models = list(options.models)
    output = options.output
    if output is None:
        if len(models) < 2:
            raise ValueError("no output file is given; add --output detector.safetensors")
        output = Path(models.pop())
    from detection.convert.average import average
    from detection.convert.export import check_format, export
    from detection.convert.pretrained import load_pretrained

    check_format(output, options.format)
    found = average([load_pretrained(source, options.trust_code) for source in models])
    export(found.build(), output, options.format)
    print(f"{output}: {plural(found.num_classes, 'class')}, {output.stat().st_size / 1e6:.0f} MB")

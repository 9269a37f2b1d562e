"""Write a model to one file for other programs, or the mean of several models.

OUTPUT ends in .safetensors (weights, classes and settings) or in .pth (torchvision's layout, weights alone).
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
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"{MODEL}; of several, the mean is written")
    output = {"metavar": "FILE", "help": "file to write; without this option, the last MODEL names it"}
    add_shared(parser, "output", "trust_code", output=output)


def run(options: argparse.Namespace) -> None:
    """Load, average and write."""
    models = list(options.models)
    output = options.output
    if output is None:
        if len(models) < 2:
            raise ValueError("say which file to write: --output detector.safetensors")
        output = Path(models.pop())
    if output.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"{output}: the name must end in .safetensors or .pth")
    from detection.convert.average import average
    from detection.convert.export import save_safetensors, save_torchvision
    from detection.convert.pretrained import load_pretrained

    found = average([load_pretrained(source, options.trust_code) for source in models])
    model = found.build()
    if output.suffix == ".safetensors":
        save_safetensors(model, output)
    else:
        save_torchvision(model, output)
    print(f"{output}: {plural(found.num_classes, 'class')}, {output.stat().st_size / 1e6:.0f} MB")

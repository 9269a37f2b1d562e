"""Write a trained detector for others, or the mean of several: ``tools/export.py CHECKPOINT... OUTPUT.safetensors``."""

import argparse
from pathlib import Path

from detection.convert.average import average
from detection.convert.export import save_safetensors, save_torchvision
from detection.convert.pretrained import load_pretrained
from detection.foreign import printable
from detection.home import command_line
from detection.wording import plural


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Write a detector to one file.")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="source",
        help="a checkpoint, or a reference such as torchvision:maskrcnn_resnet50_fpn_v2; of several, the mean",
    )
    parser.add_argument(
        "output", type=Path, help=".safetensors: weights, classes, settings; .pth: torchvision's layout, weights alone"
    )
    parser.add_argument("--trust-code", action="store_true", help="import a custom backbone that the checkpoint names")
    options = parser.parse_args(command_line(arguments))
    try:
        if options.output.suffix not in (".safetensors", ".pth"):
            raise ValueError(f"{options.output}: the name must end in .safetensors or .pth")
        found = average([load_pretrained(source, options.trust_code) for source in options.sources])
        model = found.build()
        if options.output.suffix == ".safetensors":
            save_safetensors(model, options.output)
        else:
            save_torchvision(model, options.output)
    except (OSError, ValueError) as error:
        parser.exit(2, f"export: {printable(error)}\n")
    print(f"{options.output}: {plural(found.num_classes, 'class')}, {options.output.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()

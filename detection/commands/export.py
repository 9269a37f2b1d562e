"""Write a model for other programs, or the mean of several models.

The formats safetensors (weights, classes and settings) and torchvision (its layout, weights alone) are files. The
ending of the file's name chooses: .safetensors or .pth. The formats onnx and openvino are folders with a model
that runs without PyTorch, torch is one for torch.export. The command runs both on images, writes the differences into
card.md, and fails if they are too large.
"""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from detection.commands.options import MODEL, add_shared
from detection.wording import plural

if TYPE_CHECKING:
    from detection.models.detector import Detector

EPILOG = """\
example:
  rcnn export runs/first --output detector.safetensors
  rcnn export runs/first --format onnx --output exported

exit codes: 0 all done; 2 a wrong option; 3 the results of the export differ from those of the model"""


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
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="safetensors, torchvision (default by the name's ending) or onnx, openvino, torch (folders)",
    )
    images = "images to compare both on, for folders: files or folders (default synthetic images)"
    parser.add_argument("--images", nargs="+", default=[], metavar="SOURCE", help=images)
    data = "annotated data set to compare AP on, for folders, in addition to the images"
    parser.add_argument("--check-data", metavar="DATA", help=data)
    inside = "inside: the file takes images of any size, and resizes them itself; onnx, openvino (default outside)"
    parser.add_argument("--preprocess", choices=("inside", "outside"), default="outside", help=inside)
    nms = "outside: the file returns boxes and scores before the last NMS; for detectors of boxes (default inside)"
    parser.add_argument("--nms", choices=("inside", "outside"), default="inside", help=nms)
    full = "full: the file also returns masks of the whole canvas (default frames: masks in their boxes alone)"
    parser.add_argument("--masks", choices=("frames", "full"), default="frames", help=full)
    parser.add_argument(
        "--int8", action="store_true", help="8-bit integers, for --format onnx and openvino; needs --calibration"
    )
    calibration = "annotated data set with training and validation images, for --int8"
    parser.add_argument("--calibration", metavar="DATA", help=calibration)
    drop = "largest loss of AP in percent; layers stay in float32 until it is kept (default 0.3)"
    parser.add_argument("--max-drop", type=float, default=0.3, metavar="AP", help=drop)
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="val", help="of --check-data (default val)"
    )


def run(options: argparse.Namespace) -> int:
    """Load the models, average their weights, and write the file; return 3 if an export is not the same model."""
    models = list(options.models)
    output = options.output
    if output is None:
        if len(models) < 2:
            raise ValueError(
                "no output given; add --output detector.safetensors, or a folder for --format onnx, openvino and torch"
            )
        output = Path(models.pop())
    from detection import fast
    from detection.classifier_files import classifier_file
    from detection.convert.average import average
    from detection.convert.export import check_format, export
    from detection.convert.pretrained import load_pretrained
    from detection.export.extras import FOLDERS, RESIZING, check_packages, needed

    if options.int8 and (options.format not in ("onnx", "openvino") or options.calibration is None):
        raise ValueError("--int8: is for --format onnx or openvino, and needs --calibration DATA")
    if options.int8 and options.format == "openvino":
        if options.preprocess == "inside":
            raise ValueError("--int8: NNCF cannot quantise a file with two ways of resizing; use --preprocess outside")
        needed("nncf")
    trained = [classifier_file(source) for source in models]
    if any(trained):
        return _export_classifier(models, output, options)
    if options.masks == "full" and (options.int8 or options.format not in FOLDERS):
        raise ValueError(f"--masks full: is for --format {', '.join(FOLDERS)}, without --int8")
    if options.preprocess == "inside" and options.format not in RESIZING:
        raise ValueError(f"--preprocess inside: is for --format {', '.join(RESIZING)}")
    if is_folder := options.format in FOLDERS:
        check_packages(options.format)
    else:
        check_format(output, options.format)
    found = average([load_pretrained(source, options.trust_code) for source in models])
    if is_folder:
        return _export_folder(fast.convert(found.build()), output, options)
    export(found.build(), output, options.format)
    print(f"{output}: {plural(found.num_classes, 'class')}, {output.stat().st_size / 1e6:.0f} MB")
    return 0


def _export_classifier(models: list[str], output: Path, options: argparse.Namespace) -> int:
    """Write a classifier, or the mean of several; return 3 if an export is not the same model."""
    from detection.convert.classifiers import average_classifiers, check_classifier_format, write_classifier
    from detection.export.extras import FOLDERS

    given = {
        "check_data": None,
        "preprocess": "outside",
        "nms": "inside",
        "masks": "frames",
        "int8": False,
        "calibration": None,
    }
    if wrong := [name for name, default in given.items() if getattr(options, name) != default]:
        raise ValueError(f"--{wrong[0].replace('_', '-')}: {models[0]} is a classifier, which has no such option")
    if options.format not in FOLDERS:
        check_classifier_format(output, options.format)
        model = average_classifiers(models)
        write_classifier(model, output, options.format)
        print(f"{output}: {plural(model.num_classes, 'class')}, {output.stat().st_size / 1e6:.0f} MB")
        return 0
    from detection.export.classifiers import export_classifier

    model = average_classifiers(models)
    file, gate = export_classifier(model, output, options.format, options.images)
    print(f"{file}: {plural(model.num_classes, 'class')}, {file.stat().st_size / 1e6:.0f} MB")
    print(f"parity gate {gate.line()}; details: {output / 'card.md'}")
    return 0 if gate.passed else 3


def _export_folder(model: "Detector", folder: Path, options: argparse.Namespace) -> int:
    """Write the folder of an export, and print the result of the comparison."""
    from detection.export.folder import export_folder
    from detection.export.options import ExportOptions

    given = ExportOptions(**{field.name: getattr(options, field.name) for field in fields(ExportOptions)})
    data = None
    if options.check_data is not None:
        from detection.export.check_data import CheckData

        data = CheckData(options.check_data, model, options.split)
    quantise = None
    if options.int8:
        from detection.export.check_data import CheckData
        from detection.export.int8 import Quantiser

        train, held = (CheckData(options.calibration, model, split) for split in ("train", "val"))
        quantise = Quantiser(train, held, options.max_drop / 100)
    file, gate = export_folder(model, folder, given, data, quantise)
    print(f"{file}: {plural(model.num_classes, 'class')}, {file.stat().st_size / 1e6:.0f} MB")
    print(f"parity gate {gate.line()}; details: {folder / 'card.md'}")
    return 0 if gate.passed else 3

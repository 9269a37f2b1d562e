"""Run a whole session with the installed program, and write it as a page: ``docs/tutorials/transcript.md``.

``python tools/docs/transcript.py --python ENVIRONMENT/bin/python --data ../shared/data/coco_mini`` runs it in an
environment that has only the wheel. Without ``--data`` it draws shapes. The page has no path of this machine in it, and
long outputs are cut. ``tests/end_to_end/test_wheel.py`` runs the same session.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorials" / "transcript.md"
MOST_LINES = 16
"""Lines of an output that the page shows; the middle of a longer one is left out."""

SMALL = """\
parts: [mask_rcnn_r50_fpn_1x_coco]
model:
  backbone: {name: resnet18, weights: null, norm: group, freeze: 0}
  fpn: {channels: 64}
  box_head: {hidden: 128, samples: 32}
  mask_head: {convs: 1, channels: 64}
  optimizer: {lr: 0.01}
  schedule: {reference_batch: 2, warmup: 5}
data: {short_side: 128, long_side: 213, batch_size: 2, workers: 1}
"""
"""A configuration so small that a CPU needs less than a minute; too small for a useful detector."""

HEAD = """\
# A whole session

`tools/docs/transcript.py` made this page: it ran every line in an environment with only the wheel, and copied what the
program printed. `...` stands for lines that were left out. The trainings are far too short for good detectors.
"""


@dataclass(frozen=True)
class Step:
    """Some command lines below a heading."""

    title: str
    lines: tuple[str, ...]


STEPS = (
    Step("Look around", ("rcnn --version", "rcnn configs list 'mask_rcnn_r50*'")),
    Step("Train on synthetic shapes", ("rcnn demo",)),
    Step("Check a data set", ("rcnn doctor coco --json doctor.json", "rcnn browse coco --number 2 --views 1")),
    Step("Train", ("cat small.yaml", "rcnn train small.yaml --data coco --output runs/coco --epochs 1")),
    Step("Resume", ("rcnn train small.yaml --data coco --output runs/coco --epochs 2 --resume",)),
    Step(
        "Train on the same data in YOLO's format",
        (
            "rcnn convert coco/annotations/instances_train2017.json yolo --to yolo --segments",
            "cp -r coco/train2017 yolo/images",
            "rcnn train small.yaml --data yolo --output runs/yolo --epochs 1",
        ),
    ),
    Step(
        "Train on the same data in VOC's format",
        (
            "rcnn convert coco/annotations/instances_train2017.json voc/Annotations --to voc",
            "cp -r coco/train2017 voc/JPEGImages",
            "rcnn train small.yaml --data voc --output runs/voc --epochs 1 --model.mask_head null",
        ),
    ),
    Step("Split a data set", ("rcnn split coco --output split --val 0.2 --test 0.1 --merge",)),
    Step("Predict", ("rcnn predict runs/coco coco/val2017 --save images json csv masks --score 0.05",)),
    Step(
        "Evaluate, and compare",
        (
            "rcnn evaluate runs/coco --data coco --output first",
            "rcnn evaluate runs/yolo --data coco --output second",
            "rcnn compare first second --output comparison",
        ),
    ),
    Step("Draw the curves", ("rcnn plot runs/coco runs/voc --output curves.png",)),
    Step(
        "Export",
        (
            "rcnn export runs/coco --output detector.safetensors",
            "rcnn models show detector.safetensors",
            "rcnn predict detector.safetensors coco/val2017 --output again --quiet --json",
        ),
    ),
)

MADE = (
    *("demo/predictions.jpg", "doctor.json", "browse", "runs/coco/checkpoints/last.ckpt", "split", "predictions"),
    *("first/report.html", "comparison/comparison.html", "curves.png", "detector.safetensors", "again"),
)
"""Files and folders that the session leaves."""


def session(python: Path, folder: Path, steps: tuple[Step, ...] = STEPS) -> Iterator[tuple[Step, str, str]]:
    """Run the lines of steps in a folder, and yield each with what it printed.

    Raises:
        RuntimeError: a line failed; with what it printed.
    """
    program = folder / ".bin" / "rcnn"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{python}" -m detection "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "COLUMNS": "100",
    }
    environment.pop("PYTHONPATH", None)
    for step in steps:
        for line in step.lines:
            done = subprocess.run(
                ["sh", "-c", line],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
            )
            if done.returncode:
                raise RuntimeError(f"$ {line}\n{done.stdout}exit code {done.returncode}")
            yield step, line, done.stdout


def put_data(source: Path | None, folder: Path, python: Path) -> None:
    """Copy COCO's layout of a data set into a folder; without a source, draw shapes in the same layout.

    The configuration of the trainings is beside it.
    """
    (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
    if source is not None:
        shutil.copytree(source, folder / "coco", copy_function=shutil.copyfile)
        return
    draw = "from detection.shapes import write_shapes; write_shapes('coco', train=16, val=8, size=(96, 128))"
    subprocess.run([python, "-c", draw], cwd=folder, check=True)
    for name in ("train", "val"):
        (folder / "coco" / name).rename(folder / "coco" / f"{name}2017")
        annotations = folder / "coco" / "annotations"
        (annotations / f"instances_{name}.json").rename(annotations / f"instances_{name}2017.json")


def page(done: Iterator[tuple[Step, str, str]], clean: Callable[[str], str]) -> str:
    """Return the page of a session."""
    parts, last = [HEAD], None
    for step, line, printed in done:
        if step is not last:
            parts.append(f"\n## {step.title}\n")
            last = step
        shown = "\n".join(shortened(clean(printed).splitlines()))
        parts.append(f"\n```console\n$ {line}\n{shown}\n```\n" if shown else f"\n```console\n$ {line}\n```\n")
    return "".join(parts)


def cleaned(text: str, folder: Path) -> str:
    """Return an output without this machine's paths and without progress bars."""
    text = re.sub(r"^.*\r(?!\n)", "", text, flags=re.MULTILINE)
    for place in (str(folder.resolve()), str(folder)):
        text = text.replace(place, "~/session")
    kept = [line.rstrip() for line in text.splitlines() if not re.search(r"\d+%\|", line)]
    return "\n".join(line for line in kept if line)


def shortened(lines: list[str], most: int = MOST_LINES) -> list[str]:
    """Return the first and the last lines of a long output, none longer than 120 characters."""
    lines = [line if len(line) <= 120 else f"{line[:117]}..." for line in lines]
    return lines if len(lines) <= most else [*lines[: most // 2], "...", *lines[-most // 2 :]]


def main() -> None:
    """Run the session, and write the page."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="interpreter that has the wheel")
    parser.add_argument("--data", type=Path, help="folder in COCO's layout, with train2017 and val2017")
    parser.add_argument("--output", type=Path, default=PAGE, help="page to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        put_data(options.data, folder, options.python.absolute())
        done = session(options.python.absolute(), folder)
        options.output.write_text(page(done, lambda text: cleaned(text, folder)), encoding="utf-8")


if __name__ == "__main__":
    main()

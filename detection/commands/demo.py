"""Draw a small data set, train Mask R-CNN on it, and put its predictions beside the truth.

It needs no data and no GPU, and takes a few minutes on a laptop.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from detection.commands.options import add_shared

EPILOG = """\
example:
  rcnn demo --output demo"""

LEAST_AP50 = 0.80
"""The demo fails below this AP50: then something is broken."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_shared(parser, "output", output={"default": Path("demo"), "help": "folder to write (default demo)"})


def run(options: argparse.Namespace) -> int:
    """Run the demo; exit code 1 if its AP50 is below :data:`LEAST_AP50`."""
    from detection.run_files import evaluations
    from detection.shapes_demo import write_data, write_pictures

    start, folder = time.monotonic(), options.output
    print(f"Drawing a data set: {folder / 'data'}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_data(folder / "data")
    print("Training Mask R-CNN, ResNet-18-FPN, from scratch: config demo", flush=True)
    shutil.rmtree(folder / "run", ignore_errors=True)
    _train(folder, ["--quiet"] if options.quiet else [])
    metrics = evaluations(folder / "run")[-1]
    write_pictures(folder / "run" / "checkpoints" / "last.ckpt", folder / "data", folder / "predictions")
    box, mask = (
        f"{metrics[f'val/{kind}/AP']:.3f} (AP50 {metrics[f'val/{kind}/AP50']:.3f})" for kind in ("bbox", "segm")
    )
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    failed = min(metrics["val/bbox/AP50"], metrics["val/segm/AP50"]) < LEAST_AP50
    verdict = f"FAILED, AP50 below {LEAST_AP50:.2f}: " if failed else ""
    picture = folder / "predictions.jpg"
    print(f"{verdict}box AP {box}, mask AP {mask}, {minutes} min {seconds:02d} s; look at {picture}")
    return int(failed)


def _train(folder: Path, switches: list[str]) -> None:
    """Train and evaluate in a separate process, as a user would; the demo fails if the training fails."""
    settings = ["demo", "--output", str(folder / "run"), "--data.root", str(folder / "data"), *switches]
    if code := subprocess.run([sys.executable, "-m", "detection", "train", *settings]).returncode:
        sys.exit(code)

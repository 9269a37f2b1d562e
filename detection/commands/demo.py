"""Draw a small data set, train a detector on it, and put its predictions beside the truth.

It needs no data and no GPU. The config demo (Mask R-CNN) takes a few minutes on a laptop; demo_retinanet, demo_fcos,
demo_task_aligned (with masks), demo_keypoints (Keypoint R-CNN), demo_semantic and demo_panoptic take longer.
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
  rcnn demo --output demo
  rcnn demo --config demo_fcos --output demo_fcos"""

LEAST_AP50 = 0.80
"""The demo fails below this AP50 of boxes or masks: then something is broken."""

LEAST_KEYPOINT_AP50 = 0.50
"""The same for keypoints: the corners of a shape look alike, so that which one is topmost is often unclear."""

LEAST_MIOU = 0.90
"""The demo of a Semantic FPN fails below this mean IoU."""

KINDS = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}
"""What each AP is of, and its name in the metrics."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("-c", "--config", default="demo", metavar="CONFIG", help="what to train (default demo)")
    add_shared(parser, "output", output={"default": Path("demo"), "help": "folder to write (default demo)"})


def run(options: argparse.Namespace) -> int:
    """Run the demo; exit code 1 if an AP50, or the mean IoU, is below its limit."""
    from detection.engine.configs import read_config
    from detection.evaluation.percent import percent
    from detection.run_files import evaluations
    from detection.shapes_demo import write_data, write_pictures

    start, folder = time.monotonic(), options.output
    config = read_config(options.config).info.name
    print(f"Drawing a data set: {folder / 'data'}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_data(folder / "data")
    print(f"Training: config {config}", flush=True)
    shutil.rmtree(folder / "run", ignore_errors=True)
    _train(options.config, folder, ["--quiet"] if options.quiet else [])
    metrics = evaluations(folder / "run")[-1]
    write_pictures(folder / "run" / "checkpoints" / "last.ckpt", folder / "data", folder / "predictions")
    kinds = {name: kind for name, kind in KINDS.items() if f"val/{kind}/AP" in metrics}
    scores = [
        f"{name} AP {percent(metrics[f'val/{kind}/AP'])} (AP50 {percent(metrics[f'val/{kind}/AP50'])})"
        for name, kind in kinds.items()
    ]
    limits = {kind: LEAST_KEYPOINT_AP50 if kind == "keypoints" else LEAST_AP50 for kind in kinds.values()}
    low = [limit for kind, limit in limits.items() if metrics[f"val/{kind}/AP50"] < limit]
    failed, least = bool(low), f"AP50 below {percent(max(low, default=LEAST_AP50))}"
    if not kinds:
        failed, least = metrics["val/semantic/mIoU"] < LEAST_MIOU, f"mIoU below {percent(LEAST_MIOU)}"
    for name in ("semantic/mIoU", "panoptic/PQ"):
        scores += [f"{name.partition('/')[2]} {percent(metrics[f'val/{name}'])}"] if f"val/{name}" in metrics else []
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    verdict = f"FAILED, {least}: " if failed else ""
    picture = folder / "predictions.jpg"
    print(f"{verdict}{', '.join(scores)}, {minutes} min {seconds:02d} s; look at {picture}")
    return int(failed)


def _train(config: str, folder: Path, switches: list[str]) -> None:
    """Train and evaluate in a separate process, as a user would; the demo fails if the training fails."""
    settings = [config, "--output", str(folder / "run"), "--data.root", str(folder / "data"), *switches]
    if code := subprocess.run([sys.executable, "-m", "detection", "train", *settings]).returncode:
        sys.exit(code)

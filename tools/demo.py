"""The whole path in one go: draw a data set, train on it, evaluate, and put predictions beside the truth.

Run as ``make demo`` or ``python tools/demo.py``; everything is written below ``demo/``.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO

from detection.data.dataset import read_image
from detection.documents import parse_json
from detection.inference import load_model, predict
from detection.shapes import write_shapes
from detection.visualize import draw, side_by_side

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo"
CONFIG = ROOT / "configs" / "demo.yaml"
RUN = DEMO / "run"
CHECKPOINT = RUN / "checkpoints" / "last.ckpt"
LEAST_AP50 = 0.80
"""Below this something is broken: the demo then fails."""


def main() -> int:
    """Run the demo; the exit code."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    start = time.monotonic()
    print("Drawing a data set: demo/data", flush=True)
    write_data(DEMO / "data")
    print("Training Mask R-CNN, ResNet-18-FPN, from scratch: configs/demo.yaml", flush=True)
    shutil.rmtree(RUN, ignore_errors=True)
    train_tool()
    metrics = read_metrics()
    write_pictures(DEMO / "data", DEMO / "predictions")
    box, mask = (
        f"{metrics[f'val/{kind}/AP']:.3f} (AP50 {metrics[f'val/{kind}/AP50']:.3f})" for kind in ("bbox", "segm")
    )
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    failed = min(metrics["val/bbox/AP50"], metrics["val/segm/AP50"]) < LEAST_AP50
    verdict = f"FAILED, AP50 below {LEAST_AP50:.2f}: " if failed else ""
    print(f"{verdict}box AP {box}, mask AP {mask}, {minutes} min {seconds:02d} s; look at demo/predictions.jpg")
    return int(failed)


def write_data(folder: Path) -> None:
    """Draw the data set beside its place and move it there complete, so that a break leaves no half of it."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_shapes(partial, train=400, val=100)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def train_tool() -> None:
    """Run tools/train.py as a user would, which evaluates at the end; if it fails, so does the demo."""
    settings = ["--config", str(CONFIG), "--data.root", str(DEMO / "data"), "--run.folder", str(RUN)]
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "fit", *settings]
    if code := subprocess.run(command, cwd=ROOT).returncode:
        sys.exit(code)


def read_metrics() -> dict[str, float]:
    """The last line of the run's metrics."""
    lines = (RUN / "metrics.json").read_text(encoding="utf-8").splitlines()
    return parse_json(lines[-1].encode(), RUN / "metrics.json")


def write_pictures(data: Path, folder: Path, num: int = 12) -> None:
    """Truth left, prediction right: one file per image, and a sheet of them all."""
    model = load_model(CHECKPOINT)
    assert model.categories is not None
    with contextlib.redirect_stdout(None):  # it reports every step
        coco = COCO(str(data / "annotations" / "instances_val.json"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pairs = []
    for image in list(coco.imgs.values())[:num]:
        path = data / "val" / image["file_name"]
        pixels = read_image(path)
        annotations = coco.imgToAnns[image["id"]]
        corners = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = np.array([model.categories.label(a["category_id"]) for a in annotations], np.int64)
        masks = [coco.annToRLE(a) for a in annotations]
        found = predict(model, path)
        names = model.categories.names
        truth = draw(pixels, corners, labels, None, masks, names)
        prediction = draw(pixels, found.boxes, found.labels, found.scores, found.rles, names)
        pairs.append(side_by_side(truth, prediction))
        cv2.imwrite(str(folder / f"{path.stem}.jpg"), pairs[-1][..., ::-1])
    cv2.imwrite(str(folder.with_suffix(".jpg")), sheet(pairs)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def sheet(pairs: list[np.ndarray], columns: int = 3, width: int = 560, gap: int = 12) -> np.ndarray:
    """All pictures on one, each reduced to the same width; the flat ones first, so that rows hold like heights."""
    small = [
        cv2.resize(pair, (width, pair.shape[0] * width // pair.shape[1]), interpolation=cv2.INTER_AREA)
        for pair in pairs
    ]
    small.sort(key=len)
    rows = [small[i : i + columns] for i in range(0, len(small), columns)]
    heights = [max(pair.shape[0] for pair in row) + gap for row in rows]
    page = np.full((sum(heights) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for y, row in zip(np.cumsum([gap, *heights]), rows, strict=False):
        for i, pair in enumerate(row):
            x = gap + i * (width + gap)
            page[y : y + pair.shape[0], x : x + width] = pair
    return page


if __name__ == "__main__":
    sys.exit(main())

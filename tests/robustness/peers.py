"""Run torchvision and pycocotools on the input of docs/reference/input-checks.md, each case in its own process.

Run ``python tests/robustness/peers.py``: a line for each case and library that can be given such input.
"""

import io
import json
import math
import os
import signal
import struct
import tempfile
import zlib
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SQUARE = [10.0, 20.0, 30.0, 40.0]


def losses(box: list[float]) -> str:
    """A training step of torchvision's Faster R-CNN with one such box (x0, y0, x1, y1)."""
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3
    )
    target = {"boxes": torch.tensor([box]), "labels": torch.tensor([1])}
    found = model([torch.rand(3, 64, 96)], [target])
    return "losses " + ", ".join(f"{name.removeprefix('loss_')} {float(value):.3g}" for name, value in found.items())


def truth(**changes: Any) -> dict[str, Any]:
    """One object, changed; None removes a key."""
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 20], "area": 400, "iscrowd": 0,
             "segmentation": [[10, 20, 30, 20, 30, 40, 10, 40]]}  # fmt: skip
    entry = {key: value for key, value in (entry | changes).items() if value is not None}
    return {
        "images": [{"id": 1, "height": 64, "width": 96}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [entry],
    }


def precision(content: dict[str, Any], kind: str = "bbox", results: list[dict[str, Any]] | None = None) -> str:
    """pycocotools' AP of a perfect detection."""
    if results is None:
        results = [{"image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 20], "score": 0.9}]
        if kind == "segm":
            bitmap = np.zeros((64, 96), np.uint8, order="F")
            bitmap[20:40, 10:30] = 1
            rle = coco_mask.encode(bitmap)
            results = [{"image_id": 1, "category_id": 1, "segmentation": rle, "score": 0.9}]
    with redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return f"AP {evaluation.stats[0]:.2f} of a perfect detection" if results else f"AP {evaluation.stats[0]:.2f}"


def decoded(counts: Any, size: list[int]) -> str:
    """Pixels that pycocotools sees in an RLE."""
    return f"{int(coco_mask.decode({'size': size, 'counts': counts}).sum())} pixels"


def twice(**changes: Any) -> dict[str, Any]:
    """Two objects of one id."""
    content = truth()
    content["annotations"].append({**content["annotations"][0], "bbox": [50, 20, 20, 20], **changes})
    return content


def png_bomb(folder: Path) -> Path:
    """69 bytes that claim 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path = folder / "bomb.png"
    end = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + end
    )
    return path


def half_jpeg(folder: Path) -> Path:
    """The first half of a JPEG."""
    picture = np.full((64, 96, 3), 200, np.uint8)
    picture[::2] = 40
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    path = folder / "half.jpg"
    path.write_bytes(data[: len(data) // 2])
    return path


def read(path: Path) -> str:
    """torchvision's decoder."""
    return f"an image of {tuple(torchvision.io.decode_image(str(path)).shape)}"


CASES: list[tuple[str, str, Callable[[Path], str]]] = [
    ("4", "torchvision", lambda _: losses([10, 20, 10, 40])),
    ("5", "torchvision", lambda _: losses([30, 20, 10, 40])),
    ("6", "torchvision", lambda _: losses([math.nan, 20, 30, 40])),
    ("7", "torchvision", lambda _: losses([10, 20, math.inf, 40])),
    ("9", "torchvision", lambda _: losses([1000, 2000, 1100, 2100])),
    ("10", "torchvision", lambda _: losses([10, 20, 10.001, 40])),
    ("13", "pycocotools", lambda _: precision(truth(category_id=55))),
    ("16", "pycocotools", lambda _: precision(truth(id=0))),
    ("17", "pycocotools", lambda _: precision(twice(), results=[
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in ([10, 20, 20, 20], [50, 20, 20, 20])])),
    ("20", "pycocotools", lambda _: precision(truth(image_id=99))),
    ("21", "pycocotools", lambda _: precision(truth(area=None))),
    ("22", "pycocotools", lambda _: precision(truth(iscrowd=None))),
    ("23", "pycocotools", lambda _: precision(truth(bbox=None))),
    ("24", "pycocotools", lambda _: precision(truth(segmentation=None), "segm")),
    ("25", "pycocotools", lambda _: precision(truth(segmentation=[[10, 20, 30, 20]]), "segm")),
    ("26", "pycocotools", lambda _: precision(truth(segmentation=[[10, 20, 30, 20, math.nan, 40]]), "segm")),
    ("27", "pycocotools", lambda _: precision(truth(segmentation=[10, 20, 30, 20, 30, 40, 10, 40]), "segm")),
    ("30", "pycocotools", lambda _: precision(truth(segmentation={"size": [96, 64], "counts": [0, 6144]}), "segm")),
    ("31", "pycocotools", lambda _: decoded(
        coco_mask.frPyObjects({"size": [64, 96], "counts": [100, 50]}, 64, 96)["counts"], [64, 96])),
    ("32", "pycocotools", lambda _: decoded(b"0", [100_000, 100_000])),
    ("37", "torchvision", lambda folder: read(half_jpeg(folder))),
    ("46", "torchvision", lambda folder: read(png_bomb(folder))),
    ("52", "pycocotools", lambda _: precision(truth(), results=[])),
    ("53", "pycocotools", lambda _: precision(truth(), results=[
        {"image_id": 1, "category_id": 1, "bbox": [math.nan] * 4, "score": 0.9}])),
]  # fmt: skip


def run(case: Callable[[Path], str]) -> str:
    """What happens, in a child that may die."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        torch.set_num_threads(1)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        with tempfile.TemporaryDirectory() as folder:
            try:
                told = case(Path(folder))
            except BaseException as error:
                told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:90]}"
            os.write(writing, json.dumps(told).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return f"the process dies of {signal.Signals(-code).name}" if code < 0 else str(json.loads(told))


def main() -> None:
    """Print all of it."""
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "pycocotools")))
    for number, library, case in CASES:
        print(f"{number}\t{library}\t{run(case)}", flush=True)


if __name__ == "__main__":
    main()

"""Export every architecture in every format, run the parity gate, and print what goes into the documentation.

    python tools/docs/exports.py --side 320 --output exports.json
    python tools/docs/exports.py --side 320 --only mask_rcnn pointrend --formats onnx

The detectors have a ResNet-50, the classes of COCO and random weights. Each layer is scaled until its outputs have a
plausible spread on an image, layer by layer from the first to the last (Mishkin and Matas 2016). The program appends a
row to the output after each export, and continues where an earlier run stopped. Copy the rows into
``docs/benchmarks/results.json``, then run ``python tools/docs/results.py``.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from detection import (
    cascade_mask_rcnn,
    cascade_rcnn,
    fast,
    faster_rcnn,
    fcos,
    keypoint_rcnn,
    mask_rcnn,
    panoptic_fpn,
    pointrend,
    retinanet,
    semantic_fpn,
    task_aligned,
)
from detection.export import detector_file
from detection.export.folder import export_folder
from detection.export.gate import Gate
from detection.export.options import ExportOptions
from detection.inference.detect import detect
from detection.inference.info import kind_of
from detection.models.detector import Detector
from detection.models.semantic_head import SemanticHeadConfig
from detection.models.task_aligned import TaskAlignedConfig
from detection.shapes import draw_scene

STUFF = tuple(f"stuff {k}" for k in range(53))
DETECTORS: Mapping[str, Callable[[], Detector]] = {
    "faster_rcnn": faster_rcnn,
    "mask_rcnn": mask_rcnn,
    "cascade_rcnn": cascade_rcnn,
    "cascade_mask_rcnn": cascade_mask_rcnn,
    "retinanet": retinanet,
    "fcos": fcos,
    "task_aligned": lambda: task_aligned(head=TaskAlignedConfig(masks=True)),
    "keypoint_rcnn": keypoint_rcnn,
    "pointrend": pointrend,
    "semantic_fpn": lambda: semantic_fpn(num_classes=54),
    "panoptic_fpn": lambda: panoptic_fpn(semantic_head=SemanticHeadConfig(stuff=STUFF)),
}
FORMATS = ("onnx", "openvino", "torch")
SPREADS = {
    "objectness": 1.0, "deltas": 0.5, "sides": 0.5, "centreness": 1.0, "controller": 0.3, "heatmaps": 3.0,
    "logits": 2.0, "conv3": 0.3,
}  # fmt: skip
"""Standard deviation of the outputs of layers by the ends of their names; 1 for all others."""


def plausible(build: Callable[[], Detector], side: int) -> Detector:
    """Return a detector whose random weights give outputs of a plausible spread in every layer."""
    torch.manual_seed(0)
    model = fast.revert(build()).eval()
    model.test_size = (side, round(side * 1333 / 800))
    seen: set[nn.Module] = set()

    def scaled(spread: float) -> Callable[[Any, Any, Tensor], Tensor | None]:
        def hook(layer: Any, _: Any, x: Tensor) -> Tensor | None:
            if layer in seen:  # a layer of all levels of the pyramid
                return None
            seen.add(layer)
            factor = spread / float(x.std())
            layer.weight.data.mul_(factor)
            bias = (
                0 if layer.bias is None else layer.bias.view(-1, *[1] * (x.dim() - 2)) if x.dim() == 4 else layer.bias
            )
            return (x - bias) * factor + bias

        return hook

    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            spread = next((one for end, one in SPREADS.items() if name.endswith(end)), 1.0)
            hooks.append(layer.register_forward_hook(scaled(spread)))
    detect(model, [draw_scene(0, 240, 320, np.random.default_rng(1))[0]])
    for hook in hooks:
        hook.remove()
    return fast.convert(model)


class Once:
    """Trace a detector, and convert it to ONNX, once for all its formats: both take minutes."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Let the first export of a detector do the work for the others."""
        with ExitStack() as stack:
            for name in ("export_program", "converted"):
                once = self._once(getattr(detector_file, name))
                stack.enter_context(patch.object(detector_file, name, once))
            yield

    def _once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def first(*given: Any) -> Any:
            if function.__name__ not in self._known:
                self._known[function.__name__] = function(*given)
            return self._known[function.__name__]

        return first


def row_of(name: str, format: str, gate: Gate, folder: Path) -> dict[str, Any]:
    """Return the result of a gate as plain values."""

    def most(values: Any) -> float | None:
        known = [one for one in values if one is not None]
        return float(f"{max(known):.1e}") if known else None

    rows, maps = gate.differences, gate.maps.differences if gate.maps else ()
    found: dict[str, Any] = {"detector": name, "format": format, "passed": gate.passed}
    for field in ("boxes", "scores", "masks", "keypoints"):
        found[field] = most(getattr(one, field) for one in rows)
    found["probabilities"] = most(one.probabilities for one in maps)
    for field in ("semantic", "panoptic"):
        shares = [share for one in maps if (share := getattr(one, field)) is not None]
        found[field] = round(100 * min(shares), 3) if shares else None
    found |= {"found": sum(one.found for one in rows), "sensitive": sum(one.sensitive for one in rows)}
    size = sum(path.stat().st_size for path in folder.glob("model.*") if path.suffix != ".json")
    return found | {"megabytes": round(size / 1e6), "line": gate.line()}


def main() -> None:
    """Export what the options name, and append the rows to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=800, help="shorter side of the images, in pixels")
    parser.add_argument("--only", nargs="+", choices=DETECTORS, default=list(DETECTORS), help="detectors")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--output", type=Path, default=Path("exports.json"))
    parser.add_argument("--keep", type=Path, help="keep the exports in this folder")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.output.read_text()) if options.output.is_file() else []
    for name in options.only:
        model = plausible(DETECTORS[name], options.side)
        kind, once = kind_of(model), Once()
        for format in options.formats:
            if any((row["detector"], row["format"]) == (kind, format) for row in rows):
                continue
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as place, once.patched():
                folder = Path(options.keep or place) / f"{name}_{format}"
                _, gate = export_folder(model, folder, ExportOptions(format=format))
                rows.append(row_of(kind, format, gate, folder))
            options.output.write_text(json.dumps(rows, indent=1))
            print(f"{kind}, {format}, {time.perf_counter() - start:.0f} s: {gate.line()}", flush=True)


if __name__ == "__main__":
    main()

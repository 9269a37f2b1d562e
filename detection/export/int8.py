"""Quantise an exported file to INT8, and keep layers in float32 until AP is kept.

ONNX Runtime quantises an ONNX file here, NNCF those of OpenVINO in :mod:`.int8_openvino`.

B images, C channels, H x W canvas.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detection.data.collate import collate
from detection.data.sample import Sample
from detection.data.transforms import Resize
from detection.evaluation.engines import hotcoco_evaluation
from detection.export.accuracy import Accuracy, Quantised
from detection.export.extras import needed
from detection.export.gate import Gate, Tolerances
from detection.export.loading import of_session
from detection.export.runtime import open_session
from detection.export.scopes import module_of
from detection.models.detector import Detector
from detection.report.resampling import changes

if TYPE_CHECKING:
    from detection.export.check_data import CheckData

LAYERS = ("Conv", "Gemm", "MatMul", "ConvTranspose")
"""Kinds of nodes that become INT8."""
LAST = (".logits", ".deltas", ".sides", ".centreness", ".controller", ".objectness", ".features")
"""Ends of the names of a detector's last layers."""
HEADS = ("rpn", "box_head", "mask_head", "head")
STEM = ("backbone.conv1", "backbone.layer1")
STEPS: Sequence[tuple[str, ...]] = ((), LAST, (*LAST, *HEADS), (*LAST, *HEADS, "fpn"), (*LAST, *HEADS, "fpn", *STEM))
"""Layers that stay in float32, from few to many: a name ends with one of these, or begins with it."""
IMAGES = 32
"""Number of images from which the ranges of values are computed."""


@dataclass(frozen=True)
class Quantiser:
    """Replace an exported file by one in INT8, with as few layers in float32 as keep AP.

    One half of the validation images decides which layers stay in float32, and the other half is the gate.

    Args:
        train: images that give the ranges of values.
        held: annotated validation images.
        most_drop: largest loss of AP, as a fraction.
    """

    train: "CheckData"
    held: "CheckData"
    most_drop: float = 0.003

    def __call__(self, model: Detector, file: Path) -> Gate:
        """Quantise a file, and return the comparison of AP.

        Raises:
            ValueError: the data cannot be used, or no choice of layers keeps AP.
        """
        layers, write = _quantiser_of(file)
        deciding, judging = self.held.half(0), self.held.half(1)
        batches = list(inputs(_loaded(file), self.train.samples(IMAGES)))
        before, ours, names = deciding.evaluated(model), judging.score(model), layers(file)
        for step in STEPS:
            kept = [name for name in names if stays_float(name, step)]
            with TemporaryDirectory(dir=file.parent) as place:
                other = Path(place) / file.name
                write(file, other, batches, [node for name in kept for node in names[name]])
                after = deciding.evaluated(_loaded(other))
                found = paired(deciding, before, after)
                print(f"INT8 with {len(kept)} of {len(names)} layers in float32: {_line(found)}")
                if all(change[0] >= -self.most_drop for change in found.values()):
                    accuracy = Accuracy(
                        len(judging.annotations), ours, judging.score(_loaded(other)), self.most_drop, may_gain=True
                    )
                    for one in Path(place).iterdir():  # OpenVINO has two files
                        os.replace(one, file.with_name(one.name))
                    done = Quantised(len(names) - len(kept), tuple(kept), len(deciding.annotations), found)
                    return Gate(Tolerances(), (), f"{open_session(file, 1).engine}, INT8", accuracy, done)
        raise ValueError(f"no choice of layers keeps AP within {100 * self.most_drop:g}; give a larger --max-drop")


def _quantiser_of(file: Path) -> tuple[Callable[..., dict[str, list[str]]], Callable[..., None]]:
    """Return the functions that list the layers of a file, and that quantise it."""
    if file.suffix == ".xml":
        needed("openvino", "nncf")
        from detection.export import int8_openvino

        return int8_openvino.layers_of, int8_openvino.quantise
    needed("onnx", "onnxruntime")
    return layers_of, quantise


def quantise(file: Path, output: Path, batches: Sequence[dict[str, np.ndarray]], float_nodes: Sequence[str]) -> None:
    """Write an ONNX file in INT8: 8-bit weights per channel, 8-bit values.

    Args:
        batches: inputs from which the ranges of values are computed.
        float_nodes: names of the nodes that stay in float32.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._rest, None)

    logging.disable(logging.WARNING)  # the quantiser's remarks about the file
    try:
        quantize_static(
            str(file),
            str(output),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(LAYERS),
            nodes_to_exclude=list(float_nodes),
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
    finally:
        logging.disable(logging.NOTSET)


def layers_of(file: Path) -> dict[str, list[str]]:
    """Return the nodes of each layer that can become INT8, by the name of its module."""
    import onnx

    found: dict[str, list[str]] = {}
    for node in onnx.load(str(file)).graph.node:
        if node.op_type in LAYERS:
            found.setdefault(module_of(node), []).append(node.name)
    return found


def stays_float(name: str, step: Sequence[str]) -> bool:
    """Return whether a step keeps a layer in float32."""
    return any(name.endswith(part) if part.startswith(".") else name.startswith(part) for part in step)


def inputs(model: Detector, images: Sequence[tuple[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the inputs of a file for each image.

    Args:
        model: the loaded file.
        images: name and pixels (H, W, C) of each.
    """
    if model.resize == "inside":
        yield from ({"images": image[None]} for _, image in images)
        return
    resize = Resize(*model.test_size, model.resize)
    for _, image in images:
        sample = Sample(resize.image(image), 0, (image.shape[0], image.shape[1]))
        batch = collate([sample], divisor=model.stride)
        yield {"images": batch.images.contiguous().numpy(), "sizes": batch.sizes.numpy()}


def paired(data: "CheckData", first: Any, second: Any) -> dict[str, tuple[float, float, float]]:
    """Return the change of AP by kind, from the first to the second evaluator, with its 95 % interval."""
    found = {}
    before, after = data.ap_of(first), data.ap_of(second)
    for kind in first.iou_types:
        truth, limits = first.truth(kind), first.max_detections
        one, two = (hotcoco_evaluation(truth, each.results(kind), kind, limits) for each in (first, second))
        change = changes(truth, one, two, 200, 0)["AP"]
        low, high = np.nan_to_num([change.low, change.high]).tolist()
        found[kind] = (after[kind] - before[kind], low, high)
    return found


def _loaded(file: Path) -> Detector:
    return of_session(open_session(file, torch.get_num_threads()), file)


def _line(found: dict[str, tuple[float, float, float]]) -> str:
    return ", ".join(
        f"{kind} AP {100 * change:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
        for kind, (change, low, high) in found.items()
    )

"""Quantise OpenVINO's files to INT8 with NNCF.

:mod:`.openvino_file` names each layer of a file after its module, so that a choice of layers is a choice of modules.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.export.runtime import ENTRIES

LAYERS = ("Convolution", "GroupConvolution", "MatMul", "ConvolutionBackpropData")
"""Kinds of nodes that become INT8."""


def layers_of(file: Path) -> dict[str, list[str]]:
    """Return the nodes of each layer that can become INT8, by the name of its module."""
    import openvino

    found: dict[str, list[str]] = {}
    for node in openvino.Core().read_model(file).get_ordered_ops():
        if node.get_type_name() in LAYERS:
            found.setdefault(_module_of(node), []).append(node.get_friendly_name())
    return found


def _module_of(node: Any) -> str:
    """Return the name of a node's module. A transposed convolution loses its name to the sum with its bias."""
    after = [one.get_node() for one in node.output(0).get_target_inputs()]
    names = [one.get_friendly_name() for one in (node, *after)]
    return next((name.split("/")[0] for name in names if "/" in name), names[0])


def quantise(file: Path, output: Path, batches: Sequence[dict[str, np.ndarray]], float_nodes: Sequence[str]) -> None:
    """Write OpenVINO's files in INT8: 8-bit weights per channel, 8-bit values.

    Args:
        file: the ``.xml``.
        output: the ``.xml`` to write; the ``.bin`` lies beside it.
        batches: inputs from which the ranges of values are computed.
        float_nodes: names of the nodes that stay in float32.
    """
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    content = openvino.Core().read_model(file)
    entries = {name: content.get_rt_info([name]).astype(str) for name in content.rt_info if name in ENTRIES}
    kinds = {node.get_type_name() for node in content.get_ops()} - {*LAYERS, "Constant", "Parameter", "Result"}
    scope = nncf.IgnoredScope(names=list(float_nodes), types=sorted(kinds), validate=False)
    data, device = nncf.Dataset(list(batches)), nncf.TargetDevice.CPU
    found = nncf.quantize(content, data, subset_size=len(batches), ignored_scope=scope, target_device=device)
    for name, text in entries.items():
        found.set_rt_info(text, [name])
    openvino.save_model(found, output, compress_to_fp16=False)

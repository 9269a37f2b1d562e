"""NNCF quantises the layers that it may, and leaves the others and the metadata."""

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from detection.export import openvino_file
from detection.export.detector_file import write_model
from detection.export.int8_openvino import _module_of, layers_of, quantise
from detection.export.options import ExportOptions
from detection.export.runtime import open_session
from tests.support.exported_models import MODELS


class Node:
    """A node of OpenVINO, and those after it."""

    def __init__(self, name, *after):
        self.name, self.after = name, after

    def get_friendly_name(self):
        return self.name

    def output(self, _):
        return SimpleNamespace(get_target_inputs=lambda: [SimpleNamespace(get_node=lambda n=n: n) for n in self.after])


def test_a_layer_has_the_name_of_its_module():
    assert _module_of(Node("rpn.deltas/node_1/WithoutBiases", Node("rpn.deltas/node_1"))) == "rpn.deltas"
    assert _module_of(Node("Convolution_1", Node("mask_head.up/node_2"))) == "mask_head.up"
    assert _module_of(Node("Convolution_1", Node("Add_2"))) == "Convolution_1"


@pytest.mark.slow
def test_the_chosen_layers_stay_float(tmp_path):
    if any(find_spec(name) is None for name in ("openvino", "nncf", "onnxscript")):
        pytest.skip("needs the extra nncf")
    import openvino

    model = MODELS["retinanet"]().eval()
    file, output = tmp_path / "model.xml", tmp_path / "int8.xml"
    write_model(model, file, ExportOptions(format="openvino"))
    openvino_file.add_metadata(file, {"export": {"stride": 32}})
    layers = layers_of(file)
    assert {"backbone.conv1", "head.logits", "fpn.lateral.0.0"} <= set(layers)
    rng = np.random.default_rng(0)
    batches = [
        {"images": rng.integers(0, 255, (1, 3, 64, 96), np.uint8), "sizes": np.array([[64, 96]])} for _ in range(3)
    ]
    kept = [node for name, nodes in layers.items() if name.startswith("head") for node in nodes]
    quantise(file, output, batches, kept)
    sessions = [open_session(path, 1) for path in (file, output)]
    assert sessions[1].metadata == {"export": {"stride": 32}}
    found = openvino.Core().read_model(output)
    changed = {
        node.get_friendly_name()
        for node in found.get_ops()
        if node.get_type_name() in ("Convolution", "MatMul")
        and any(one.get_source_output().get_node().get_type_name() == "FakeQuantize" for one in node.inputs()[:1])
    }
    assert changed
    assert not changed & set(kept)
    assert output.with_suffix(".bin").stat().st_size < 0.6 * file.with_suffix(".bin").stat().st_size
    ours, theirs = (session.run(batches[0]["images"], batches[0]["sizes"]) for session in sessions)
    assert [x.shape for x in ours] == [x.shape for x in theirs]
    assert np.abs(np.sort(ours[1]) - np.sort(theirs[1])).max() < 0.2

"""The exportable form of every head finds exactly what the plain head finds."""

from importlib.util import find_spec

import pytest
import torch

from detection import fast
from detection.export.extras import FOLDERS
from detection.export.folder import export_folder
from detection.export.options import ExportOptions
from detection.export.program import exportable
from detection.structures import IGNORE
from tests.support.detectors import make_batch
from tests.support.exported_models import HEADS, MODELS, mask_rcnn


@pytest.mark.parametrize("name", MODELS | HEADS)
@pytest.mark.parametrize(("canvas", "sizes"), [((96, 128), [(96, 128), (70, 90)]), ((32, 32), [(1, 32)])])
@torch.no_grad()
def test_an_exportable_detector_finds_what_the_plain_one_finds(name, canvas, sizes):
    model = fast.revert((MODELS | HEADS)[name]()).eval()
    close = 1e-6 if name in MODELS else 2e-5  # heads with other memory layouts and samples round otherwise
    batch = make_batch([[] for _ in sizes], canvas, sizes)
    expected, found = model(*batch[:2]), exportable(model)(*batch[:2])
    assert (expected.labels != IGNORE).any() or expected.semantic is not None
    for mine, reference in zip(found, expected, strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, reference, rtol=close, atol=close)


def test_the_model_itself_keeps_its_classes():
    model = fast.convert(mask_rcnn())
    before = [type(module) for module in model.modules()]
    exportable(model)
    assert [type(module) for module in model.modules()] == before


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_openvino_compiles_every_form(name, tmp_path):
    if any(find_spec(package) is None for package in FOLDERS["openvino"]):
        pytest.skip("needs the extra openvino")
    model = fast.convert(MODELS[name]()).eval()
    model.test_size = (96, 160)
    _, gate = export_folder(model, tmp_path / "exported", ExportOptions(format="openvino"))
    assert gate.passed, gate.line()

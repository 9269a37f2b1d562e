"""The exportable form of every head finds exactly what the plain head finds."""

import pytest
import torch

from detection import fast
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

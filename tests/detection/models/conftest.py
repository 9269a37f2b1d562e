"""A tiny detector, in its plain form and in its faster one, and batches for it."""

import pytest

from detection import fast
from tests.support import detectors


@pytest.fixture(params=["plain", "fast"])
def tiny(request):
    """A Mask R-CNN of three classes that a test may change."""
    model = detectors.make_tiny()
    return fast.convert(model) if request.param == "fast" else model


@pytest.fixture
def make_batch():
    return detectors.make_batch

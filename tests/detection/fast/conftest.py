"""A tiny detector in its faster form, and batches for it."""

import pytest

from detection import fast
from tests.support import detectors


@pytest.fixture
def tiny():
    """A Mask R-CNN of three classes that a test may change."""
    return fast.convert(detectors.make_tiny())


@pytest.fixture
def make_batch():
    return detectors.make_batch

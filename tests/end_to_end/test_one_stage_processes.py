"""One-stage detectors in two processes: the test of the R-CNNs with their configs."""

import pytest
import yaml

from detection.shapes import write_shapes
from tests.detection.engine.test_one_stage import settings
from tests.end_to_end.test_processes import (
    AGENT,
    test_two_ranks_stopped_and_resumed_equal_two_that_were_not,
    whole,
)

__all__ = ["test_two_ranks_stopped_and_resumed_equal_two_that_were_not", "whole"]  # run here with these configs
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["fcos", "retinanet"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def config(kind, tmp_path_factory):
    """Seven images to train on, and five to validate on."""
    folder = tmp_path_factory.mktemp("processes")
    root = write_shapes(folder / "shapes", train=7, val=5, size=(64, 96))
    given = settings(kind)
    given |= {"data": {**given["data"], "root": str(root)}, "run": {"pictures": 0}}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(given))
    (folder / "agent.py").write_text(AGENT)
    return path

"""The sentence about an earlier report in the same folder."""

import json
from types import SimpleNamespace

import pytest

from detection.report.earlier import change_since

ABOUT = {"annotations_sha256": "a", "image_ids_sha256": "b", "protocol": "coco"}
ANALYSES = [
    SimpleNamespace(iou_type=kind, numbers={"AP": SimpleNamespace(value=value)})
    for kind, value in (("bbox", 0.361), ("segm", 0.25))
]


def put(path, **changes):
    """Write an earlier report."""
    kinds = {kind: {"numbers": {"AP": {"value": value}}} for kind, value in (("bbox", 0.353), ("segm", 0.3))}
    path.write_text(json.dumps({"about": {**ABOUT, "date": "2026-11-30 09:24 UTC"}, **kinds} | changes))


def test_the_change_of_each_ap_is_in_percent(tmp_path):
    put(tmp_path / "report.json")
    assert change_since(tmp_path / "report.json", ABOUT, ANALYSES) == (
        "Since the evaluation of 2026-11-30 09:24 UTC in this folder: "
        "box AP 35.3 → 36.1 (+0.8), mask AP 30.0 → 25.0 (-5.0)."
    )


@pytest.mark.parametrize("name", ABOUT)
def test_an_evaluation_of_something_else_is_not_compared(tmp_path, name):
    put(tmp_path / "report.json")
    assert change_since(tmp_path / "report.json", ABOUT | {name: "other"}, ANALYSES) is None


@pytest.mark.parametrize("changes", [{"bbox": None}, {"about": 3}, {"segm": {"numbers": {"AP": {"value": None}}}}])
def test_a_file_that_is_no_report_is_left_alone(tmp_path, changes):
    assert change_since(tmp_path / "report.json", ABOUT, ANALYSES) is None
    put(tmp_path / "report.json", **changes)
    assert change_since(tmp_path / "report.json", ABOUT, ANALYSES) is None

"""The parity gate passes equal detections in any order, and fails on every kind of difference."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from detection.export.gate import Gate, Tolerances, compare
from detection.structures import Detections

CONFIG = SimpleNamespace(score_threshold=0.05, detections=100)
MODEL = SimpleNamespace(last_head=SimpleNamespace(config=CONFIG))
BOXES = torch.tensor([[10.0, 10, 60, 60], [20, 30, 50, 90], [0, 0, 15, 15]], dtype=torch.float64)
FOUND = Detections(BOXES, torch.tensor([0.9, 0.5, 0.3]), torch.tensor([0, 1, 0]))


def differ(theirs, ours=FOUND, model=MODEL):
    return compare(model, "image", (100, 100), ours, theirs)


def passes(theirs, **options):
    return differ(theirs, **options).passes(Tolerances())


def test_equal_detections_pass_in_any_order():
    order = torch.tensor([2, 0, 1])
    found = differ(Detections(*(None if x is None else x[order] for x in FOUND)))
    assert found.passes(Tolerances())
    assert (found.found, found.boxes, found.scores, found.unmatched, found.masks) == (3, 0, 0, 0, None)


@pytest.mark.parametrize(
    "broken",
    [
        FOUND._replace(boxes=BOXES + 0.02),
        FOUND._replace(boxes=BOXES + 3),
        FOUND._replace(boxes=BOXES[:, [1, 0, 3, 2]]),
        FOUND._replace(boxes=BOXES * torch.nan),
        FOUND._replace(scores=FOUND.scores + 2e-4),
        FOUND._replace(scores=FOUND.scores * torch.nan),
        FOUND._replace(labels=torch.tensor([0, 1, 1])),
        Detections(BOXES[:2], FOUND.scores[:2], FOUND.labels[:2]),
        Detections(BOXES[:0], FOUND.scores[:0], FOUND.labels[:0]),
    ],
    ids=["moved", "far", "swapped", "nan", "score", "nan score", "label", "missing", "none"],
)
def test_every_difference_fails(broken):
    assert not passes(broken)
    assert not passes(FOUND, ours=broken)


def test_a_detection_at_the_score_threshold_may_be_missing():
    faint = FOUND._replace(scores=torch.tensor([0.9, 0.5, 0.05005]))
    found = differ(Detections(BOXES[:2], FOUND.scores[:2], FOUND.labels[:2]), ours=faint)
    assert (found.unmatched, found.at_cut) == (0, 1)


def test_the_last_of_a_full_list_may_differ():
    full = SimpleNamespace(last_head=SimpleNamespace(config=SimpleNamespace(score_threshold=0.05, detections=3)))
    other = FOUND._replace(boxes=torch.cat([BOXES[:2], BOXES[2:] + 30]))
    assert differ(other, model=full).unmatched == 0
    assert differ(other).unmatched == 2


def test_a_gate_without_any_detection_does_not_pass():
    none = Detections(BOXES[:0], FOUND.scores[:0], FOUND.labels[:0])
    one = differ(none, ours=none)
    assert one.passes(Tolerances())
    assert not Gate(Tolerances(), (one,), "engine").passed
    assert Gate(Tolerances(), (one, differ(FOUND)), "engine").passed
    assert not Gate(Tolerances(), (replace(one, unmatched=1), differ(FOUND)), "engine").passed


def test_unstable_images_do_not_count_but_most_must_be_stable():
    good, bad = differ(FOUND), replace(differ(FOUND), unmatched=1, unstable=True)
    assert Gate(Tolerances(), (good, good, bad), "engine").passed
    assert not Gate(Tolerances(), (good, bad), "engine").passed
    assert not Gate(Tolerances(), (good, good, replace(bad, unstable=False)), "engine").passed

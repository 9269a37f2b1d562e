"""The parity gate passes equal detections in any order, and fails on every kind of difference."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detection.export import gate as module
from detection.export.gate import Gate, Tolerances, compare
from detection.export.runtime import run_errors
from detection.export.sensitivity import Movement
from detection.structures import Detections

CONFIG = SimpleNamespace(score_threshold=0.05, detections=100)
MODEL = SimpleNamespace(last_head=SimpleNamespace(config=CONFIG))
BOXES = torch.tensor([[10.0, 10, 60, 60], [20, 30, 50, 90], [0, 0, 15, 15]], dtype=torch.float64)
FOUND = Detections(BOXES, torch.tensor([0.9, 0.5, 0.3]), torch.tensor([0, 1, 0]))
NONE = Detections(BOXES[:0], FOUND.scores[:0], FOUND.labels[:0])


def differ(theirs, ours=FOUND, model=MODEL, movement=None):
    return compare(model, ("image", 0), (100, 100), ours, theirs, Tolerances(), movement)


def moves(*boxes, extra=0, others=()):
    """A movement of the boxes alone."""
    values = torch.tensor(boxes, dtype=torch.float64)
    return Movement(values, values * 0, values * 0, values * 0, others, extra)


def passes(theirs, **options):
    return differ(theirs, **options).passes(Tolerances())


def test_equal_detections_pass_in_any_order():
    order = torch.tensor([2, 0, 1])
    found = differ(Detections(*(None if x is None else x[order] for x in FOUND)))
    assert found.passes(Tolerances())
    assert found.decides
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
        NONE,
    ],
    ids=["moved", "far", "swapped", "nan", "score", "nan score", "label", "missing", "none"],
)
def test_every_difference_fails(broken):
    assert not passes(broken)
    assert not passes(FOUND, ours=broken)
    assert not passes(broken, movement=moves(0, 0, 0))


def test_a_sensitive_detection_may_differ_as_far_as_it_moves_and_no_other_may():
    theirs = FOUND._replace(boxes=BOXES + torch.tensor([[0.0], [0.5], [0.0]]))
    found = differ(theirs, movement=moves(0, 0.6, 0))
    assert found.passes(Tolerances())
    assert (found.sensitive, found.vague, found.boxes) == (1, 1, 0)
    slightly = differ(FOUND._replace(boxes=BOXES + 0.1), movement=moves(0.06, 0.06, 0.06))
    assert (slightly.sensitive, slightly.vague, slightly.unmatched, slightly.decides) == (3, 0, 0, True)
    assert differ(theirs, movement=moves(0, 0.2, 0)).unmatched == 1
    assert not passes(theirs, movement=moves(0.3, 0, 0.3))


def test_only_what_a_copy_finds_or_as_many_as_a_copy_gains_may_be_new():
    lost = moves(0, torch.inf, 0)
    new = FOUND._replace(boxes=BOXES + torch.tensor([[0.0], [30.0], [0.0]]))
    assert differ(new, movement=lost).unmatched == 1
    assert passes(new, movement=moves(0, torch.inf, 0, extra=1))
    assert passes(new, movement=moves(0, torch.inf, 0, others=(new,)))
    two = FOUND._replace(boxes=BOXES + torch.tensor([[30.0], [30.0], [0.0]]))
    assert differ(two, movement=moves(torch.inf, torch.inf, 0, extra=1)).unmatched == 1


def test_a_detection_at_the_score_threshold_may_be_missing():
    faint = FOUND._replace(scores=torch.tensor([0.9, 0.5, 0.05005]))
    found = differ(Detections(BOXES[:2], FOUND.scores[:2], FOUND.labels[:2]), ours=faint)
    assert (found.unmatched, found.at_cut) == (0, 1)


def test_the_last_of_a_full_list_may_differ():
    full = SimpleNamespace(last_head=SimpleNamespace(config=SimpleNamespace(score_threshold=0.05, detections=3)))
    other = FOUND._replace(boxes=torch.cat([BOXES[:2], BOXES[2:] + 30]))
    assert differ(other, model=full).unmatched == 0
    assert differ(other).unmatched == 2


def test_an_image_of_detections_at_the_cut_decides_nothing():
    full = SimpleNamespace(last_head=SimpleNamespace(config=SimpleNamespace(score_threshold=0.05, detections=3)))
    equal = FOUND._replace(scores=torch.full((3,), 0.5))
    found = differ(equal._replace(boxes=BOXES + 30), ours=equal, model=full)
    assert found.passes(Tolerances())
    assert not found.decides
    assert not Gate(Tolerances(), (differ(FOUND), found), "engine").passed


def test_a_gate_without_any_detection_does_not_pass():
    one = differ(NONE, ours=NONE)
    assert one.passes(Tolerances())
    assert not Gate(Tolerances(), (one,), "engine").passed
    assert Gate(Tolerances(), (one, differ(FOUND)), "engine").passed
    assert not Gate(Tolerances(), (replace(one, unmatched=1), differ(FOUND)), "engine").passed


def test_an_image_of_vague_detections_needs_a_replacement_that_decides():
    good = differ(FOUND)
    vague, noisy = replace(good, vague=2), replace(good, noise=4)
    assert not Gate(Tolerances(), (good, vague), "engine").passed
    assert Gate(Tolerances(), (good, vague, noisy), "engine").passed
    assert not Gate(Tolerances(), (vague, noisy, vague), "engine").passed
    assert not Gate(Tolerances(), (good, vague, replace(noisy, vague=3)), "engine").passed
    assert not Gate(Tolerances(), (good, replace(vague, unmatched=1), noisy), "engine").passed


def test_a_file_that_its_engine_cannot_compute_fails(monkeypatch):
    def broken(each, images):
        with run_errors("engine 1.0"):
            raise KeyError("idx=99 is out of bounds")

    monkeypatch.setattr(module, "detect", broken)
    monkeypatch.setattr(module, "precise", lambda model: model)
    gate = module.run_gate(MODEL, MODEL, [("a", np.zeros((32, 32, 3), np.uint8))], "engine 1.0")
    assert not gate.passed
    assert gate.line().startswith("FAILED: engine 1.0 cannot compute the exported file")
    assert gate.summary()["failure"] in gate.line()

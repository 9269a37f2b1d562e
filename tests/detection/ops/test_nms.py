"""NMS compared with torchvision and a loop, and its implementations compared with each other."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detection.fast import nms as fast
from detection.ops import selection
from detection.ops.boxes import iou
from detection.ops.nms import nms
from detection.ops.selection import select_detections, soft_nms
from detection.structures import IGNORE


def lists(seed: int, *shape: int, side: int = 14) -> tuple[Tensor, Tensor]:
    """Boxes of whole numbers and falling scores of a few values, so that equal IoUs and scores are common."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, side, (*shape, 2), generator=generator)
    boxes = torch.cat([corner, corner + torch.randint(0, side, (*shape, 2), generator=generator)], dim=-1).float()
    scores = torch.randint(1, 12, shape, generator=generator).float() / 12
    return boxes, scores.sort(dim=-1, descending=True).values


def nms_slowly(boxes: Tensor, threshold: float) -> list[int]:
    """Down one list, box after box."""
    overlap = iou(boxes, boxes).tolist()
    kept: list[int] = []
    for j in range(len(boxes)):
        if not any(overlap[i][j] > threshold for i in kept):
            kept.append(j)
    return kept


@pytest.fixture(params=["plain", "threads", "rounds"])
def nms_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one of the ways in which :func:`nms` works."""
    monkeypatch.setattr(fast, "LONG", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(fast, "PAIRS", 2 * 30 * 30)  # two lists at a time
    monkeypatch.setattr(fast, "ROUNDS", 2)
    way = {"plain": nms.plain, "threads": fast.nms_by_threads, "rounds": fast.nms_on_gpu}[request.param]
    monkeypatch.setitem(globals(), "nms", way)
    monkeypatch.setattr(selection, "nms", way)
    return str(request.param)


THRESHOLDS = [0.0, 0.3, 0.5, 0.7, 1.0]


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_nms_is_the_loop_and_torchvisions(nms_way: str, threshold: float) -> None:
    for seed in range(12):
        boxes, scores = lists(seed, 3, 30)
        keep = nms(boxes, scores, threshold)
        for i in range(3):
            expected = torchvision.ops.nms(boxes[i], scores[i], threshold)
            assert keep[i].nonzero().squeeze(1).tolist() == sorted(expected.tolist())
            # A threshold that float32 cannot hold is compared as float64, by both.
            assert keep[i].nonzero().squeeze(1).tolist() == nms_slowly(boxes[i], threshold)


def test_overlap_of_the_threshold_survives(nms_way: str) -> None:
    # 5 of 10 shared: exactly 0.5. 3 of 10 shared: as float32 a little above 0.3, and so for torchvision.
    half = torch.tensor([[[0.0, 0, 10, 1], [0, 0, 5, 1]]])
    third = torch.tensor([[[0.0, 0, 10, 1], [0, 0, 3, 1]]])
    scores = torch.tensor([[0.9, 0.8]])
    assert nms(half, scores, 0.5).tolist() == [[True, True]]
    assert nms(third, scores, 0.3).tolist() == [[True, False]]
    assert len(torchvision.ops.nms(third[0], scores[0], 0.3)) == 1


def test_chain_is_greedy(nms_way: str) -> None:
    """Each box of a row overlaps the next: the first removes the second, which therefore spares the third, and on."""
    left = torch.arange(30.0) * 5
    boxes = torch.stack([left, torch.zeros(30), left + 10, torch.ones(30)], dim=-1)[None]
    keep = nms(boxes, torch.linspace(1, 0.1, 30)[None], 0.2)
    assert keep[0].tolist() == [True, False] * 15


def test_padding_and_broken_boxes_neither_survive_nor_suppress(nms_way: str) -> None:
    good = torch.tensor([0.0, 0, 10, 10])
    boxes = good.repeat(1, 6, 1)
    boxes[0, 0, 2], boxes[0, 1, 0], boxes[0, 2, 3] = torch.nan, -torch.inf, torch.inf
    scores = torch.tensor([[torch.inf, 0.9, 0.8, torch.nan, 0.6, -torch.inf]])
    assert nms(boxes, scores, 0.5).tolist() == [[False, False, False, False, True, False]]
    assert nms(good.repeat(1, 2, 1), torch.tensor([[torch.inf, 0.5]]), 0.5).tolist() == [[False, True]]


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
def test_no_boxes(nms_way: str, shape: tuple[int, int]) -> None:
    assert nms(torch.zeros(*shape, 4), torch.zeros(shape), 0.5).shape == shape
    assert nms(torch.zeros(2, 3, 4), torch.full((2, 3), -torch.inf), 0.5).eq(False).all()


def test_long_lists_are_torchvisions() -> None:
    """With overlaps as between real proposals."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(40, 2, generator=generator)[torch.randint(0, 40, (900,), generator=generator)] * 500
    corner = centre + torch.randn(900, 2, generator=generator) * 8
    boxes = torch.cat([corner, corner + 40 + torch.rand(900, 2, generator=generator) * 20], dim=-1)
    scores = torch.rand(900, generator=generator).sort(descending=True).values
    for threshold in (0.3, 0.7):
        keep = nms(boxes[None], scores[None], threshold)[0]
        assert keep.nonzero().squeeze(1).tolist() == torchvision.ops.nms(boxes, scores, threshold).tolist()
        assert 0.05 < keep.float().mean() < 0.95


def select_slowly(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, num: int
) -> list[tuple[list[float], float, int, int]]:
    """One image, one class after the other: box, score, label, index; of equal scores the first candidate."""
    found = []
    for label in range(scores.shape[1]):
        index = (scores[:, label] > score_threshold).nonzero().squeeze(1)
        box = boxes[index, label if boxes.shape[1] > 1 else 0]
        for i in torchvision.ops.nms(box, scores[index, label], iou_threshold).tolist():
            n = int(index[i])
            found.append((box[i].tolist(), scores[n, label].item(), label, n))
    return sorted(found, key=lambda entry: (-entry[1], entry[3], entry[2]))[:num]


def select_across_slowly(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, num: int
) -> list[tuple[list[float], float, int, int]]:
    """One image, all classes in one list: box, score, label, index; of equal scores the first candidate."""
    n, label = (scores > score_threshold).nonzero(as_tuple=True)
    box, score = boxes[n, label if boxes.shape[1] > 1 else 0], scores[n, label]
    kept: list[int] = []
    for i in score.argsort(descending=True, stable=True).tolist():
        if not (torchvision.ops.box_iou(box[i, None], box[kept]).double() > iou_threshold).any():
            kept.append(i)
    return [(box[i].tolist(), score[i].item(), int(label[i]), int(n[i])) for i in kept[:num]]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**16), shared=st.booleans(), num=st.integers(1, 40))
def test_selection_across_classes_is_the_loop(seed: int, shared: bool, num: int) -> None:
    boxes, _ = lists(seed, 2, 12, 1 if shared else 3)
    scores = lists(seed + 1, 2, 12, 3)[1].flip(1)
    result = select_detections(boxes, scores, 0.0, 0.4, num, across_classes=True)
    for image in range(2):
        expected = select_across_slowly(boxes[image], scores[image], 0.0, 0.4, num)
        padding = [([0.0] * 4, 0.0, IGNORE, 0)] * (num - len(expected))
        assert list(zip(*(x[image].tolist() for x in result), strict=True)) == expected + padding


def test_soft_suppression_across_classes_lowers_scores_of_other_classes() -> None:
    boxes, scores = torch.tensor([[[[0.0, 0, 10, 10]]]]), torch.tensor([[[0.9, 0.8]]])
    within, across = (select_detections(boxes, scores, 0.05, 0.5, 2, 0.5, across) for across in (False, True))
    assert within[1][0].tolist() == pytest.approx([0.9, 0.8])
    assert across[1][0].tolist() == pytest.approx([0.9, 0.8 * math.exp(-1 / 0.5)])


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**16),
    shared=st.booleans(),
    num=st.integers(1, 40),
    score_threshold=st.sampled_from([0.0, 0.5, 0.75, 2.0]),
)
def test_selection_is_the_loop(seed: int, shared: bool, num: int, score_threshold: float) -> None:
    boxes, _ = lists(seed, 2, 12, 1 if shared else 3)
    scores = lists(seed + 1, 2, 12, 3)[1].flip(1)
    result = select_detections(boxes, scores, score_threshold, 0.4, num)
    for image in range(2):
        expected = select_slowly(boxes[image], scores[image], score_threshold, 0.4, num)
        padding = [([0.0] * 4, 0.0, IGNORE, 0)] * (num - len(expected))
        assert list(zip(*(x[image].tolist() for x in result), strict=True)) == expected + padding


def test_selection_is_batched_nms() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = lists(0, 1, 200, 1, side=60)[0].expand(-1, -1, 10, -1) + torch.rand(1, 200, 10, 4, generator=generator)
    scores = torch.rand(1, 200, 10, generator=generator)
    box, score, label, index = (x[0] for x in select_detections(boxes, scores, 0.3, 0.5, 150))
    n, k = (scores[0] > 0.3).nonzero(as_tuple=True)
    keep = torchvision.ops.batched_nms(boxes[0, n, k], scores[0, n, k], k, 0.5)[:150]
    assert torch.equal(box, boxes[0, n, k][keep])
    assert torch.equal(score, scores[0, n, k][keep])
    assert torch.equal(label, k[keep])
    assert torch.equal(index, n[keep])


def test_each_of_two_classes_takes_its_own_box() -> None:
    boxes = torch.tensor([[[[0.0, 0, 10, 10], [20.0, 0, 30, 10]]]])
    found, _, label, _ = select_detections(boxes, torch.tensor([[[0.8, 0.9]]]), 0.1, 0.5, 2)
    assert label.tolist() == [[1, 0]]
    assert torch.equal(found[0], boxes[0, 0].flip(0))


def test_selection_of_nothing_is_padding() -> None:
    for shape in ((2, 5, 3), (2, 0, 3)):
        box, score, label, index = select_detections(torch.ones(*shape, 4), torch.zeros(shape), 0.05, 0.5, 4)
        assert box.eq(0).all()
        assert score.eq(0).all()
        assert label.eq(IGNORE).all()
        assert index.eq(0).all()
        assert box.shape == (2, 4, 4)


def test_selection_drops_nan_and_inf() -> None:
    boxes = torch.tensor([0.0, 0, 10, 10]).repeat(1, 4, 1, 1)
    boxes[0, 1, 0, 0] = torch.nan
    scores = torch.tensor([torch.inf, 0.9, torch.nan, 0.7])[None, :, None]
    _, score, label, index = select_detections(boxes, scores, 0.05, 0.5, 3)
    assert label.tolist() == [[0, IGNORE, IGNORE]]
    assert index.tolist() == [[3, 0, 0]]
    assert score[0, 0] == scores[0, 3, 0]


def test_selection_score_of_the_threshold_is_dropped() -> None:
    _, _, label, _ = select_detections(torch.ones(1, 1, 1, 4), torch.full((1, 1, 1), 0.5), 0.5, 0.5, 1)
    assert label.item() == IGNORE


def test_images_do_not_meet() -> None:
    """The result of a batch is the results of its images."""
    boxes, _ = lists(0, 3, 20, 4)
    scores = lists(1, 3, 20, 4)[1].flip(1)
    scores[1] = 0  # an image in the middle without candidates
    together = select_detections(boxes, scores, 0.2, 0.5, 10)
    for image in range(3):
        alone = select_detections(boxes[image, None], scores[image, None], 0.2, 0.5, 10)
        assert all(torch.equal(a[0], b[image]) for a, b in zip(alone, together, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_agrees_with_cpu() -> None:
    boxes, scores = lists(0, 6, 300, side=60)
    assert torch.equal(nms(boxes.cuda(), scores.cuda(), 0.5).cpu(), nms(boxes, scores, 0.5))
    per_class, class_scores = lists(1, 2, 50, 3)[0], lists(2, 2, 50, 3)[1].flip(1)
    on_device = select_detections(per_class.cuda(), class_scores.cuda(), 0.2, 0.5, 20)
    for a, b in zip(on_device, select_detections(per_class, class_scores, 0.2, 0.5, 20), strict=True):
        assert torch.equal(a.cpu(), b)


def soft_nms_slowly(boxes: Tensor, scores: Tensor, sigma: float) -> list[float]:
    """One list, as in the paper's figure 2."""
    left, final = list(range(len(boxes))), scores.clone()
    overlap = iou(boxes, boxes)
    while left:
        best = max(left, key=lambda i: (float(final[i]), -i))
        left.remove(best)
        for i in left:
            final[i] *= torch.exp(-(overlap[best, i] ** 2) / sigma)
    return final.tolist()


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_soft_suppression_is_the_loop(sigma: float) -> None:
    for seed in range(10):
        boxes, scores = lists(seed, 3, 14)
        scores = (scores + torch.rand(scores.shape) * 1e-3).sort(dim=-1, descending=True).values
        found = soft_nms(boxes, scores, sigma, 14)
        for i in range(3):
            assert found[i].tolist() == pytest.approx(soft_nms_slowly(boxes[i], scores[i], sigma), rel=1e-5)


def test_soft_suppression_ignores_padding_and_what_is_broken() -> None:
    boxes, scores = lists(0, 1, 6)
    scores[0, 4:] = -torch.inf
    boxes[0, 1, 2] = torch.nan
    keep = [0, 2, 3]
    found = soft_nms(boxes, scores, 0.5, 6)
    assert found[0, keep].tolist() == pytest.approx(soft_nms(boxes[:, keep], scores[:, keep], 0.5, 6)[0].tolist())
    assert found[0, [1, 4, 5]].isneginf().all()


def test_soft_selection_keeps_what_hard_selection_drops() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])[None, :, None]
    scores = torch.tensor([0.9, 0.8, 0.7])[None, :, None]
    hard, soft = (select_detections(boxes, scores, 0.05, 0.5, 3, sigma) for sigma in (0.0, 0.5))
    assert hard[2].tolist() == [[0, 0, IGNORE]]
    assert soft[2].tolist() == [[0, 0, 0]]
    assert soft[3].tolist() == [[0, 2, 1]]
    assert soft[1][0, 2].item() == pytest.approx(0.8 * torch.tensor(-(0.9**2) / 0.5).exp().item())

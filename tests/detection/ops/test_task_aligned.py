"""Task-aligned assignment beside plain loops over objects and cells."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from detection.ops.task_aligned import assign_aligned
from detection.structures import IGNORE


def by_loops(truth, centres, scores, predicted, cells, alpha, beta):
    """TOOD, section 3.2, image by image and object by object, in float64."""
    boxes, labels, crowd = truth
    batch, number = labels.shape
    index = torch.zeros(batch, len(centres), dtype=torch.int64)
    label = torch.zeros_like(index)
    quality = torch.zeros(batch, len(centres), dtype=torch.float64)
    for b in range(batch):
        overlaps = box_iou(boxes[b].double(), predicted[b].double())
        claims = {}
        for g in range(number):
            x, y = centres.T
            left, top, right, bottom = boxes[b, g]
            inside = ((x > left) & (x < right) & (y > top) & (y < bottom)).nonzero()[:, 0].tolist()
            if crowd[b, g]:
                for n in inside:
                    label[b, n] = IGNORE
            if labels[b, g] == IGNORE or crowd[b, g]:
                continue
            fits = {n: float(scores[b, n, labels[b, g]]) ** alpha * float(overlaps[g, n]) ** beta for n in inside}
            for n in sorted(fits, key=fits.get, reverse=True)[:cells]:
                if n not in claims or overlaps[g, n] > overlaps[claims[n][0], n]:
                    claims[n] = g, fits[n]
        for g in range(number):
            own = [n for n, (object_, _) in claims.items() if object_ == g]
            for n in own:
                index[b, n], label[b, n] = g, 1
                best = max(claims[m][1] for m in own)
                quality[b, n] = claims[n][1] / best * max(float(overlaps[g, m]) for m in own)
    return index, label, quality


def example(seed, objects=5, batch=2, classes=3):
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(6) * 8.0 + 4, torch.arange(8) * 8.0 + 4, indexing="ij")
    centres = torch.stack([x.flatten(), y.flatten()], dim=1)
    corner = torch.rand(batch, objects, 2, generator=g) * 40
    boxes = torch.cat([corner, corner + 3 + torch.rand(batch, objects, 2, generator=g) * 30], dim=2)
    labels = torch.randint(0, classes, (batch, objects), generator=g)
    crowd = torch.rand(batch, objects, generator=g) < 0.2
    padding = torch.rand(batch, objects, generator=g) < 0.2
    labels[padding], boxes[padding], crowd[padding] = IGNORE, 0, False
    scores = torch.rand(batch, len(centres), classes, generator=g)
    reach = 2 + torch.rand(batch, len(centres), 4, generator=g) * 20
    predicted = torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], dim=2)
    return (boxes, labels, crowd), centres, scores, predicted


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from([(1.0, 6.0), (0.5, 2.0)]), st.sampled_from([1, 2**22]))
def test_assignment_equals_loops(seed, cells, powers, chunk):
    data = example(seed)
    found = assign_aligned(*data, cells, *powers, chunk=chunk)
    index, label, quality = by_loops(*data, cells, *powers)
    assert torch.equal(found.label, label)
    assert torch.equal(found.matched[label == 1], index[label == 1])
    assert torch.allclose(found.quality.double(), quality, atol=1e-5)


def test_predictions_that_miss_every_object_still_give_positives():
    """IoU ** 6 of such a prediction would be zero in float32."""
    truth = torch.tensor([[[10.0, 10, 14, 14]]]), torch.tensor([[0]]), torch.tensor([[False]])
    centres = torch.tensor([[12.0, 12], [60, 60]])
    predicted = torch.tensor([[[-5000.0, -5000, 5000, 5000], [50, 50, 70, 70]]])
    found = assign_aligned(truth, centres, torch.full((1, 2, 1), 1e-12), predicted)
    assert found.label.tolist() == [[1, 0]]
    assert found.quality[0, 0] == pytest.approx(16 / 1e8, rel=1e-3)


def test_no_objects():
    truth = torch.zeros(1, 2, 4), torch.full((1, 2), IGNORE), torch.zeros(1, 2, dtype=torch.bool)
    found = assign_aligned(truth, torch.tensor([[4.0, 4]]), torch.ones(1, 1, 3), torch.tensor([[[0.0, 0, 8, 8]]]))
    assert (found.label.tolist(), found.quality.tolist()) == ([[0]], [[0.0]])


def test_the_defaults_are_those_of_the_paper():
    data = example(3)
    found, expected = assign_aligned(*data), assign_aligned(*data, cells=13, alpha=1.0, beta=6.0)
    assert torch.equal(found.quality, expected.quality)
    assert torch.equal(found.matched, expected.matched)

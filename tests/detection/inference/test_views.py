import pytest
import torch
from torchvision.ops import batched_nms

from detection.inference.detect import concatenate, detect
from detection.inference.views import detect_in_views, merge_views
from detection.structures import Detections


def make(generator: torch.Generator, n: int) -> Detections:
    corner = torch.rand((n, 2), generator=generator, dtype=torch.float64) * 40
    boxes = torch.cat([corner, corner + 5 + torch.rand((n, 2), generator=generator, dtype=torch.float64) * 20], dim=1)
    scores = torch.rand(n, generator=generator).sort(descending=True).values
    return Detections(boxes, scores, torch.randint(0, 3, (n,), generator=generator), torch.rand((n, 4, 4)))


def test_merging_is_suppression_within_each_class():
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        views = [make(generator, 12), make(generator, 9)]
        together = concatenate(views)
        plain = batched_nms(together.boxes, together.scores.double(), together.labels, 0.5)
        merged = merge_views(views, 0.5, 100)
        assert torch.equal(merged.scores, together.scores[plain])
        assert torch.equal(merged.boxes, together.boxes[plain])
        assert torch.equal(merged.masks, together.masks[plain])
        assert len(merge_views(views, 0.5, 3).scores) == 3


def test_merging_across_classes_is_suppression_in_one_list():
    generator = torch.Generator().manual_seed(0)
    views = [make(generator, 12), make(generator, 9)]
    together = concatenate(views)
    plain = batched_nms(together.boxes, together.scores.double(), torch.zeros_like(together.labels), 0.5)
    merged = merge_views(views, 0.5, 100, across_classes=True)
    assert torch.equal(merged.scores, together.scores[plain])
    assert len(merged.scores) < len(merge_views(views, 0.5, 100).scores)


def test_views_hold_what_each_of_them_saw_best(tiny_model, pixels):
    plain = detect(tiny_model, [pixels])[0]
    views = detect_in_views(tiny_model, [pixels], [48, 64], flip=True)[0]
    assert views.scores[0] >= plain.scores[0]
    assert len(views.scores) <= tiny_model.box_head.config.detections
    assert torch.equal(detect_in_views(tiny_model, [pixels])[0].boxes, plain.boxes)
    assert (views.scores.diff() <= 0).all()


@pytest.mark.parametrize("short_sides", [(), (48,)])
def test_several_images_at_once(tiny_model, pixels, short_sides):
    both = detect_in_views(tiny_model, [pixels, pixels[::-1].copy()], short_sides, flip=True)
    assert len(both) == 2
    assert torch.allclose(
        both[0].boxes, detect_in_views(tiny_model, [pixels], short_sides, flip=True)[0].boxes, atol=1e-3
    )

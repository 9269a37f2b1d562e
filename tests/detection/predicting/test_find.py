import copy
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from detection.predicting.find import Found, concatenate, find, find_in_views, merge


def make(generator: torch.Generator, n: int) -> Found:
    corner = torch.rand((n, 2), generator=generator, dtype=torch.float64) * 40
    boxes = torch.cat([corner, corner + 5 + torch.rand((n, 2), generator=generator, dtype=torch.float64) * 20], dim=1)
    scores = torch.rand(n, generator=generator).sort(descending=True).values
    return Found(boxes, scores, torch.randint(0, 3, (n,), generator=generator), torch.rand((n, 4, 4)))


def test_merging_is_suppression_within_each_class():
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        views = [make(generator, 12), make(generator, 9)]
        together = concatenate(views)
        plain = batched_nms(together.boxes, together.scores.double(), together.labels, 0.5)
        merged = merge(views, 0.5, 100)
        assert torch.equal(merged.scores, together.scores[plain])
        assert torch.equal(merged.boxes, together.boxes[plain])
        assert torch.equal(merged.masks, together.masks[plain])
        assert len(merge(views, 0.5, 3).scores) == 3


def test_merging_across_classes_is_suppression_in_one_list():
    generator = torch.Generator().manual_seed(0)
    views = [make(generator, 12), make(generator, 9)]
    together = concatenate(views)
    plain = batched_nms(together.boxes, together.scores.double(), torch.zeros_like(together.labels), 0.5)
    merged = merge(views, 0.5, 100, across_classes=True)
    assert torch.equal(merged.scores, together.scores[plain])
    assert len(merged.scores) < len(merge(views, 0.5, 100).scores)


def test_a_mirror_shows_the_same_place(tiny_model, pixels):
    # What is seen in the mirror of a mirrored image is what is seen without any.
    plain = find(tiny_model, [pixels])[0]
    mirrored = find(tiny_model, [np.ascontiguousarray(pixels[:, ::-1])], flip=True)[0]
    back = torch.stack([80 - plain.boxes[:, 2], plain.boxes[:, 1], 80 - plain.boxes[:, 0], plain.boxes[:, 3]], dim=1)
    assert torch.allclose(mirrored.boxes, back)
    assert torch.equal(mirrored.masks, plain.masks.flip(2))


def test_views_hold_what_each_of_them_saw_best(tiny_model, pixels):
    plain = find(tiny_model, [pixels])[0]
    views = find_in_views(tiny_model, [pixels], [48, 64], flip=True)[0]
    assert views.scores[0] >= plain.scores[0]
    assert len(views.scores) <= tiny_model.box_head.config.detections
    assert torch.equal(find_in_views(tiny_model, [pixels])[0].boxes, plain.boxes)
    assert (views.scores.diff() <= 0).all()


@pytest.mark.parametrize("short_sides", [(), (48,)])
def test_several_images_at_once(tiny_model, pixels, short_sides):
    both = find_in_views(tiny_model, [pixels, pixels[::-1].copy()], short_sides, flip=True)
    assert len(both) == 2
    assert torch.allclose(
        both[0].boxes, find_in_views(tiny_model, [pixels], short_sides, flip=True)[0].boxes, atol=1e-3
    )


@pytest.fixture
def learning(tiny_model):
    model = copy.deepcopy(tiny_model).train()
    model.backbone.layer1.eval()
    return model


def modes(model: torch.nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_is_left_in_its_mode(learning, pixels, monkeypatch, fails):
    def refuse(*_: object) -> None:
        raise RuntimeError("out of memory")

    before = modes(learning)
    if fails:
        monkeypatch.setattr(learning.box_head, "detect", refuse)
    with pytest.raises(RuntimeError, match="out of memory") if fails else nullcontext():
        find(learning, [pixels])
    assert modes(learning) == before


def test_two_calls_that_overlap_leave_the_mode_it_was_in(learning, pixels, monkeypatch):
    before, detect, inside = modes(learning), learning.box_head.detect, threading.Event()
    second = threading.Thread(target=lambda: find(learning, [pixels]))
    first_ended = threading.Event()

    def overlapping(*arguments):
        if threading.current_thread() is second:
            inside.set()
            assert first_ended.wait(60)
        else:
            second.start()
            assert inside.wait(60)
        return detect(*arguments)

    monkeypatch.setattr(learning.box_head, "detect", overlapping)
    find(learning, [pixels])
    first_ended.set()
    second.join(60)
    assert modes(learning) == before


@pytest.mark.parametrize("shape", [(0, 80, 3), (50, 0, 3), (0, 0, 3)])
def test_an_image_without_pixels_is_refused_with_its_shape(tiny_model, pixels, shape):
    with pytest.raises(ValueError, match=rf"an array of shape \({shape[0]}, {shape[1]}, 3\) has no pixels"):
        find(tiny_model, [pixels, np.zeros(shape, np.uint8)])

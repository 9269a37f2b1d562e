import copy
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from detection.inference.detect import detect


def test_a_mirror_shows_the_same_place(tiny_model, pixels):
    # What is seen in the mirror of a mirrored image is what is seen without any.
    plain = detect(tiny_model, [pixels])[0]
    mirrored = detect(tiny_model, [np.ascontiguousarray(pixels[:, ::-1])], flip=True)[0]
    back = torch.stack([80 - plain.boxes[:, 2], plain.boxes[:, 1], 80 - plain.boxes[:, 0], plain.boxes[:, 3]], dim=1)
    assert torch.allclose(mirrored.boxes, back)
    assert torch.equal(mirrored.masks, plain.masks.flip(2))


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
        detect(learning, [pixels])
    assert modes(learning) == before


def test_two_calls_that_overlap_leave_the_mode_it_was_in(learning, pixels, monkeypatch):
    before, plain, inside = modes(learning), learning.box_head.detect, threading.Event()
    second = threading.Thread(target=lambda: detect(learning, [pixels]))
    first_ended = threading.Event()

    def overlapping(*arguments):
        if threading.current_thread() is second:
            inside.set()
            assert first_ended.wait(60)
        else:
            second.start()
            assert inside.wait(60)
        return plain(*arguments)

    monkeypatch.setattr(learning.box_head, "detect", overlapping)
    detect(learning, [pixels])
    first_ended.set()
    second.join(60)
    assert modes(learning) == before


@pytest.mark.parametrize("shape", [(0, 80, 3), (50, 0, 3), (0, 0, 3)])
def test_an_image_without_pixels_is_refused_with_its_shape(tiny_model, pixels, shape):
    with pytest.raises(ValueError, match=rf"an array of shape \({shape[0]}, {shape[1]}, 3\) has no pixels"):
        detect(tiny_model, [pixels, np.zeros(shape, np.uint8)])

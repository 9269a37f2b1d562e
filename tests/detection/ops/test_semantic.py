"""The loss of semantic maps and the maps themselves, compared with the same over all pixels and classes at once."""

import pytest
import torch
import torch.nn.functional as F

from detection.ops.semantic import label_map, upsampled_cross_entropy
from detection.structures import UNLABELLED


def given(classes: int = 5, cells: tuple[int, int] = (11, 7), factor: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *cells, dtype=torch.float32).mul_(3).requires_grad_()
    labels = torch.randint(0, classes, (2, factor * cells[0], factor * cells[1]), dtype=torch.uint8)
    labels[torch.rand(labels.shape) < 0.2] = UNLABELLED
    return logits, labels


def at_once(logits: torch.Tensor, labels: torch.Tensor, factor: int) -> torch.Tensor:
    enlarged = F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
    return F.cross_entropy(enlarged, labels.long(), ignore_index=UNLABELLED)


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 11, 50])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_loss_and_its_gradient_are_those_at_image_size(rows, factor):
    logits, labels = given(factor=factor)
    loss, expected = upsampled_cross_entropy(logits, labels, rows), at_once(logits, labels, factor)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    (mine,), (theirs,) = (torch.autograd.grad(one, logits) for one in (loss, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-8)


def test_no_label_at_all_is_no_loss_and_no_gradient():
    logits, labels = given()
    loss = upsampled_cross_entropy(logits, torch.full_like(labels, UNLABELLED))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_images_count_by_their_labelled_pixels():
    logits, labels = given()
    labels[1] = UNLABELLED
    torch.testing.assert_close(upsampled_cross_entropy(logits, labels), upsampled_cross_entropy(logits[:1], labels[:1]))


def test_the_loss_never_holds_all_classes_at_image_size():
    logits, labels = given(classes=40, cells=(64, 16))
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                largest.append(found.numel())
            return found

    with Watch():
        upsampled_cross_entropy(logits, labels).backward()
    whole = 2 * 40 * 256 * 64
    assert max(largest) <= whole / 4  # eight of the 64 rows, and one on each side


@pytest.mark.parametrize("classes", [1, 3, 8, 19])
def test_a_label_map_is_the_best_class_after_two_resizings(classes):
    torch.manual_seed(1)
    logits = torch.randn(classes, 8, 6)
    mine = label_map(logits, 4, (29, 21), (61, 44))
    enlarged = F.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=False)[:, :, :29, :21]
    resized = F.interpolate(enlarged, size=(61, 44), mode="bilinear", align_corners=False)[0]
    assert mine.dtype == torch.uint8
    assert torch.equal(mine.long(), resized.argmax(dim=0))

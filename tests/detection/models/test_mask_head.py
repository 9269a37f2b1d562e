"""The mask head returns one channel for each RoI, compared with the same channel of all."""

import pytest
import torch

from detection import fast
from detection.models.mask_head import MaskHead, MaskHeadConfig
from detection.ops.roi_align import roi_align


@pytest.mark.parametrize("form", [fast.revert, fast.convert])
def test_logits_and_gradients_are_those_of_the_own_class(form):
    torch.manual_seed(0)
    head = form(MaskHead(8, 5, (4, 8), MaskHeadConfig(1, 8, resolution=4)).to(memory_format=torch.channels_last))
    features = [torch.randn(2, 8, 16, 16), torch.randn(2, 8, 8, 8)]
    corners = torch.rand(2, 3, 2) * 40
    rois = torch.cat([corners, corners + 4 + torch.rand(2, 3, 2) * 16], dim=-1)
    labels = torch.tensor([[0, 4, -1], [2, -1, 2]])
    used = labels >= 0
    logits = head(features, rois, labels)[used]

    x = roi_align(features, (4, 8), rois, 4)[used]
    every = head.logits(head.upsample(head.convs(x)).relu())  # (4, 5, 8, 8)
    expected = every[torch.arange(4), labels[used]]
    torch.testing.assert_close(logits, expected)
    with torch.no_grad():  # another way, with nothing to keep
        torch.testing.assert_close(head(features, rois, labels)[used], expected)

    weights = torch.randn(4, 8, 8)
    ours, theirs = (
        torch.autograd.grad((y * weights).sum(), list(head.parameters()), retain_graph=True) for y in (logits, expected)
    )
    for mine, plain in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plain)


def test_a_slot_that_is_not_used_may_overflow(tiny, make_batch, monkeypatch):
    """In float16 on a GPU, which computes them all."""
    batch = make_batch([[([10, 10, 60, 50], 1, False)]])
    expected = tiny.losses(batch, generator=torch.Generator().manual_seed(0))["loss_mask"]
    forward = tiny.mask_head.forward

    def every(features, rois, labels):
        logits = forward(features, rois, labels)
        assert (labels < 0).any()
        return torch.where(labels[..., None, None] < 0, torch.inf, logits)

    monkeypatch.setattr(tiny.mask_head, "forward", every)
    found = tiny.losses(batch, generator=torch.Generator().manual_seed(0))["loss_mask"]
    torch.testing.assert_close(found, expected)

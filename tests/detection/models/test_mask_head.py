"""The mask head computes one channel of each RoI; here it is picked from all of them."""

import torch

from detection.models.mask_head import MaskHead
from detection.ops.levels import as_levels
from detection.ops.roi_align import roi_align


def test_logits_and_gradients_are_those_of_the_own_class():
    torch.manual_seed(0)
    head = MaskHead(8, 5, (4, 8), convs=1, channels=8, resolution=4).to(memory_format=torch.channels_last)
    levels = as_levels([torch.randn(2, 8, 16, 16), torch.randn(2, 8, 8, 8)])
    corners = torch.rand(2, 3, 2) * 40
    rois = torch.cat([corners, corners + 4 + torch.rand(2, 3, 2) * 16], dim=-1)
    labels = torch.tensor([[0, 4, -1], [2, -1, 2]])
    logits, slots = head(levels, rois, labels)
    assert slots.tolist() == [0, 1, 3, 5]

    x = roi_align(levels, (4, 8), rois, 4).flatten(0, 1)[slots]
    every = head.logits(head.upsample(head.convs(x)).relu())  # (4, 5, 8, 8)
    expected = every[torch.arange(4), labels.flatten()[slots]]
    torch.testing.assert_close(logits, expected)
    with torch.no_grad():  # another way, with nothing to keep
        torch.testing.assert_close(head(levels, rois, labels)[0], expected)

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
    forward = MaskHead.forward

    def every(self, levels, rois, labels):
        logits, slots = forward(self, levels, rois, labels)
        others = logits.new_full((labels.numel(), *logits.shape[1:]), torch.inf)
        assert len(slots) < len(others)
        return others.index_copy(0, slots, logits), torch.arange(len(others))

    monkeypatch.setattr(MaskHead, "forward", every)
    found = tiny.losses(batch, generator=torch.Generator().manual_seed(0))["loss_mask"]
    torch.testing.assert_close(found, expected)

import pytest
import torch

from detection.models.rpn import RPN, RPNConfig


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 1.5, float("nan")])
def test_a_score_threshold_that_is_no_use_is_rejected(threshold):
    with pytest.raises(ValueError, match=r"model\.rpn\.score_threshold is .*; it must be at least 0 and below 1"):
        RPN(8, (4, 8, 16, 32, 64), RPNConfig(score_threshold=threshold))


def test_every_layer_learns_under_autocast(tiny, make_batch):
    """Autocast may keep weights that it has cast; those cast for the proposals know no gradient."""
    batch = make_batch([[([10, 10, 60, 50], 1, False)]])
    with torch.autocast("cpu", torch.bfloat16):
        losses = tiny.train().losses(batch)
    (losses["loss_rpn_cls"] + losses["loss_rpn_loc"]).backward()
    for name, parameter in tiny.rpn.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name

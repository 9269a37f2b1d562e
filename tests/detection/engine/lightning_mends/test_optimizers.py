"""Lightning's behaviour with fused optimizers, and with the last learning rate of its finder."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from detection.engine.lightning_mends.optimizers import allow_clipping, may_fuse, start_at_scheduled_rates


def fused():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.0)
    return torch.optim.SGD([parameter], lr=0.1, fused=True), parameter


def test_lightning_refuses_to_clip_in_front_of_a_fused_optimizer_and_no_longer_refuses():
    precision = MixedPrecision("bf16-mixed", "cpu")
    optimizer, parameter = fused()
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        precision.clip_gradients(optimizer, 1.0)
    allow_clipping(optimizer)
    precision.clip_gradients(optimizer, 1.0)
    assert parameter.grad.norm() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("precision", "possible"), [("32-true", True), ("bf16-mixed", True), ("16-mixed", False), ("16-true", False)]
)
def test_float16_needs_gradients_that_are_unscaled_before_they_are_clipped(precision, possible):
    assert may_fuse(precision) is possible


def test_a_training_starts_at_the_rates_of_its_schedule():
    optimizer, _ = fused()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    optimizer.param_groups[0]["lr"] = 7.0  # as the finder leaves it
    start_at_scheduled_rates(SimpleNamespace(lr_scheduler_configs=[SimpleNamespace(scheduler=schedule)]))
    assert optimizer.param_groups[0]["lr"] == 0.05

"""Keep the learning rates and the gradient clipping of the settings."""

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def may_fuse(precision: object) -> bool:
    """Return whether gradients can be clipped before the step of a fused optimizer.

    Lightning clips gradients before the step. In float16, a fused optimizer unscales them only inside the step.

    Args:
        precision: precision of Lightning's trainer.
    """
    return not str(precision).startswith("16")


def allow_clipping(optimizer: Optimizer) -> None:
    """Let Lightning clip the gradients of a fused optimizer.

    Lightning rejects clipping if an optimizer can unscale gradients, also in bfloat16, where gradients are not scaled.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def start_at_scheduled_rates(trainer: Trainer) -> None:
    """Set each learning rate to that of the schedule; Lightning's learning-rate finder leaves its own there."""
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if not isinstance(schedule, LambdaLR):  # the schedule of the finder, while it runs
            continue
        rates = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, base, factor in rates:
            group["lr"] = base * factor(schedule.last_epoch)


def scale_base_rates(trainer: Trainer, factor: float) -> None:
    """Multiply the base rates of all schedules; Lightning's finder changes only the learning rate of the module."""
    for config in trainer.lr_scheduler_configs:
        config.scheduler.base_lrs = [lr * factor for lr in config.scheduler.base_lrs]

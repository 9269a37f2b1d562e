"""Learning rates and clipping as they were asked for."""

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def may_fuse(precision: object) -> bool:
    """Whether gradients can be clipped in front of a fused optimizer.

    Lightning clips gradients before the optimizer steps; in float16 a fused optimizer would unscale them only then.

    Args:
        precision: of Lightning's trainer.
    """
    return not str(precision).startswith("16")


def allow_clipping(optimizer: Optimizer) -> None:
    """Let Lightning clip the gradients of a fused optimizer.

    Lightning rejects clipping where an optimizer says that it can unscale gradients, in bfloat16 too, where nothing is
    scaled.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def start_at_scheduled_rates(trainer: Trainer) -> None:
    """Set each learning rate to that of the schedule; Lightning's finder leaves its own in the optimizer."""
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if not isinstance(schedule, LambdaLR):  # the finder's own, while it looks
            continue
        rates = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, base, factor in rates:
            group["lr"] = base * factor(schedule.last_epoch)


def scale_base_rates(trainer: Trainer, factor: float) -> None:
    """Multiply the rates that schedules begin from; Lightning's finder changes the module's rate alone."""
    for config in trainer.lr_scheduler_configs:
        config.scheduler.base_lrs = [lr * factor for lr in config.scheduler.base_lrs]

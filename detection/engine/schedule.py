"""Compute the learning rate of each step of a run.

A schedule is written for ``reference_batch`` images per step. With another batch size, the learning rate changes in
proportion to it. Lengths stay the same in images: half the batch size means twice the steps (Goyal et al. 2017,
section 2.1). A step is one update of the weights, with any number of devices and accumulated batches.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from detection.wording import plural


@dataclass(frozen=True)
class ScheduleConfig:
    """Length of the training, and the learning rate over its steps."""

    kind: Literal["multistep", "cosine"] = "multistep"
    """multistep: multiply the learning rate by gamma at each milestone. cosine: decrease it to zero along half a cosine
    wave."""
    unit: Literal["epochs", "iterations"] = "epochs"
    """Unit of length and milestones. One iteration is a step of reference_batch images."""
    length: int = 12
    """Length of the training, in units; trainer.max_epochs or trainer.max_steps replaces it."""
    milestones: Sequence[float] = (8, 11)
    """Times at which multistep multiplies the learning rate by gamma, in units from the start."""
    gamma: float = 0.1
    """Factor of multistep for the learning rate at each milestone."""
    warmup: int = 1000
    """Length of the linear warm-up of the learning rate, in iterations of reference_batch images; at most a tenth of
    the run."""
    warmup_factor: float = 0.001
    """Learning rate at the start of the warm-up, as a fraction of the full one."""
    reference_batch: int = 16
    """Images per step for which the iterations and optimizer.lr are meant."""

    def check(self) -> None:
        """Reject invalid settings.

        Raises:
            ValueError: the length or the reference batch is below 1.
        """
        if min(self.length, self.reference_batch) < 1:
            raise ValueError(
                f"model.schedule.length {self.length} and reference_batch {self.reference_batch} must be at least 1"
            )


@dataclass(frozen=True)
class Schedule:
    """A schedule whose lengths are optimizer steps of one run."""

    kind: Literal["multistep", "cosine"]
    total: int
    warmup: int
    warmup_factor: float
    milestones: tuple[int, ...]
    gamma: float

    def factor(self, step: int) -> float:
        """Return the factor for the learning rate at a step, counted from 0."""
        if self.kind == "cosine":
            decay = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, self.total))))
        else:
            decay = self.gamma ** bisect_right(self.milestones, step)
        if step >= self.warmup:
            return decay
        return decay * (self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup)


def plan(config: ScheduleConfig, batch_size: int, steps_per_epoch: int, total: int | None = None) -> Schedule:
    """Convert the lengths of a config to optimizer steps.

    Args:
        config: settings of the schedule.
        batch_size: images per step, over all devices and accumulated batches.
        steps_per_epoch: optimizer steps per epoch.
        total: steps until training ends; None: ``config.length``.
    """
    scale = config.reference_batch / batch_size
    unit = steps_per_epoch if config.unit == "epochs" else scale
    total = max(1, round(config.length * unit)) if total is None else total
    milestones = tuple(round(milestone * unit) for milestone in sorted(config.milestones))
    # The training on a small data set may be shorter than the warm-up for COCO.
    warmup = min(round(config.warmup * scale), total // 10)
    return Schedule(
        config.kind, total, warmup, config.warmup_factor, milestones if config.kind == "multistep" else (), config.gamma
    )


def limits(config: ScheduleConfig, batch_size: int) -> dict[str, int]:
    """Return the arguments of Lightning's Trainer with which training ends at the end of the schedule."""
    if config.unit == "epochs":
        return {"max_epochs": config.length, "max_steps": -1}
    return {"max_epochs": -1, "max_steps": max(1, round(config.length * config.reference_batch / batch_size))}


def describe(schedule: Schedule, lr: float, batch_size: int, steps_per_epoch: int) -> str:
    """Return one line that describes the steps and the learning rate of a run."""
    shape = "cosine"
    if schedule.kind == "multistep":
        reached = [str(milestone) for milestone in schedule.milestones if milestone < schedule.total]
        shape = f"times {schedule.gamma:g} at step {' and '.join(reached)}" if reached else "constant"
    return (
        f"Schedule: {plural(schedule.total, 'step')} ({schedule.total / steps_per_epoch:.1f} epochs) of "
        f"{plural(batch_size, 'image')}, learning rate {lr:.4g} after {plural(schedule.warmup, 'step')} of warm-up, "
        f"{shape}"
    )


def describe_scaling(config: ScheduleConfig, recipe_lr: float, batch_size: int) -> str | None:
    """Return one line that says how a run follows a recipe for another batch size; None for the recipe's own."""
    if batch_size == config.reference_batch:
        return None
    factor = batch_size / config.reference_batch
    return (
        f"Batch: the recipe has learning rate {recipe_lr:.4g} for {plural(config.reference_batch, 'image')} per step; "
        f"with {batch_size} it is the same recipe at {factor:.4g} times the rate and {1 / factor:.4g} times the steps"
    )

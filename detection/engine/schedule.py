"""The learning rate over a run.

A schedule is written for ``reference_batch`` images per step. With another batch the learning rate is scaled with it.
Everything else keeps its place in images seen: half the batch, twice the steps (Goyal et al. 2017, section 2.1).
A step is one update of the weights, whatever the number of devices and accumulated batches behind it.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from detection.wording import plural


@dataclass(frozen=True)
class ScheduleConfig:
    """How long training lasts, and how the learning rate rises and falls."""

    kind: Literal["multistep", "cosine"] = "multistep"
    """multistep: times gamma at each milestone. cosine: down to zero along half a wave."""
    unit: Literal["epochs", "iterations"] = "epochs"
    """Unit of length and milestones; iterations are those at the reference batch."""
    length: int = 12
    """When training ends, unless trainer.max_epochs or trainer.max_steps say otherwise."""
    milestones: Sequence[float] = (8, 11)
    """Where multistep lowers the learning rate."""
    gamma: float = 0.1
    """The factor for the learning rate at each milestone."""
    warmup: int = 1000
    """Iterations at the reference batch over which the learning rate rises; at most a tenth of the run."""
    warmup_factor: float = 0.001
    """The learning rate at the start of the warm-up, as a part of the full one."""
    reference_batch: int = 16
    """Images per step that iterations and the optimizer's lr are given for."""

    def check(self) -> None:
        """Reject settings that no schedule can have.

        Raises:
            ValueError: no length, or a batch without images.
        """
        if min(self.length, self.reference_batch) < 1:
            raise ValueError(
                f"model.schedule.length {self.length} and reference_batch {self.reference_batch} must be at least 1"
            )


@dataclass(frozen=True)
class Schedule:
    """A schedule in the steps of one run."""

    kind: Literal["multistep", "cosine"]
    total: int
    warmup: int
    warmup_factor: float
    milestones: tuple[int, ...]
    gamma: float

    def factor(self, step: int) -> float:
        """The factor for the learning rate at a step, counted from 0."""
        if self.kind == "cosine":
            decay = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, self.total))))
        else:
            decay = self.gamma ** bisect_right(self.milestones, step)
        if step >= self.warmup:
            return decay
        return decay * (self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup)


def plan(config: ScheduleConfig, batch_size: int, steps_per_epoch: int, total: int | None = None) -> Schedule:
    """Turn a config into steps.

    Args:
        batch_size: images per step, over all devices.
        total: steps until training ends; those of ``config.length`` if None.
    """
    scale = config.reference_batch / batch_size
    unit = steps_per_epoch if config.unit == "epochs" else scale
    total = max(1, round(config.length * unit)) if total is None else total
    milestones = tuple(round(milestone * unit) for milestone in sorted(config.milestones))
    # A small data set may end before a warm-up for COCO does.
    warmup = min(round(config.warmup * scale), total // 10)
    return Schedule(
        config.kind, total, warmup, config.warmup_factor, milestones if config.kind == "multistep" else (), config.gamma
    )


def limits(config: ScheduleConfig, batch_size: int) -> dict[str, int]:
    """The arguments of Lightning's Trainer that end training with the schedule."""
    if config.unit == "epochs":
        return {"max_epochs": config.length, "max_steps": -1}
    return {"max_epochs": -1, "max_steps": max(1, round(config.length * config.reference_batch / batch_size))}


def describe(schedule: Schedule, lr: float, batch_size: int, steps_per_epoch: int) -> str:
    """One line that says what a run does."""
    shape = "cosine"
    if schedule.kind == "multistep":
        reached = [str(milestone) for milestone in schedule.milestones if milestone < schedule.total]
        shape = f"times {schedule.gamma:g} at {' and '.join(reached)}" if reached else "constant"
    return (
        f"Schedule: {plural(schedule.total, 'step')} ({schedule.total / steps_per_epoch:.1f} epochs) of "
        f"{plural(batch_size, 'image')}, learning rate {lr:.4g} after {plural(schedule.warmup, 'step')} of warm-up, "
        f"{shape}"
    )

"""What the Lightning modules of all kinds of models share: optimizer, schedule, checkpoints, resuming."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detection.engine.checkpoint_checks import check_optimizers
from detection.engine.clock import Clock
from detection.engine.data_of import data_of
from detection.engine.errors import user_input
from detection.engine.lightning_mends.checkpoints import NoClassLoading
from detection.engine.lightning_mends.optimizers import may_fuse, scale_base_rates, start_at_scheduled_rates
from detection.engine.optim import OptimizerConfig, build_optimizer
from detection.engine.resuming import check_checkpoint, complete_checkpoint, continue_training
from detection.engine.schedule import ScheduleConfig, describe, describe_scaling, plan
from detection.engine.sharding import Sharded
from detection.engine.summary import next_commands

if TYPE_CHECKING:
    from detection.engine.resumable_data import ResumableData


class ResumableModule(NoClassLoading, LightningModule):
    """Train a model that :meth:`setup` builds, and resume its training.

    Args:
        optimizer: optimizer, learning rate and weight decay.
        schedule: length of the training, and the learning rate over its steps.

    Raises:
        InputError: a setting is invalid.
    """

    model: nn.Module
    configs: dict[str, Any]
    """Settings of the parts of the model, by name."""

    def __init__(self, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> None:
        super().__init__()
        self.optimizer_config, self.schedule_config = optimizer, schedule
        self.given_optimizer = optimizer  # Lightning's learning-rate finder changes only optimizer_config
        self.clock: Clock | None = None  # measures the parts of a step while it is set
        self.evaluated_batch: int | None = None
        """Index of the batch, counted over all epochs, after which the last evaluation finished."""
        self.evaluation_due = False
        """Whether the resumed run must first run the evaluation that its last step did not finish."""
        self._resumed: tuple[dict[str, Any], str] | None = None  # a checkpoint and its path, until fit has begun
        with user_input():
            optimizer.check()
            schedule.check()

    @property
    def model_name(self) -> str:
        """Name of the kind of the model, to print."""
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        """Return settings, classes and preprocessing of the model, as plain values for checkpoints."""
        raise NotImplementedError

    def check_model(self, checkpoint: Mapping[str, Any], source: str) -> None:
        """Check that a checkpoint has the classes, the weights and, to resume a training, the settings of this run.

        Raises:
            ValueError: the checkpoint does not fit; the message names the difference.
        """
        raise NotImplementedError

    def next_commands(self, folder: Path) -> dict[str, str]:
        """Return commands that a user may run after the training, by their purpose."""
        return next_commands(folder)

    @property
    def data(self) -> "ResumableData":
        """The data module of this run."""
        return data_of(self.trainer)

    @property
    def _is_sharded(self) -> bool:
        return isinstance(self.trainer.strategy, Sharded)

    @property
    def lr(self) -> float:
        """Learning rate after scaling with the batch; Lightning's learning-rate finder reads and sets it."""
        return self.optimizer_config.lr * self._lr_scale

    @lr.setter
    def lr(self, value: float) -> None:
        factor = value / self.lr
        self.optimizer_config = replace(self.optimizer_config, lr=value / self._lr_scale)
        scale_base_rates(self.trainer, factor)

    @property
    def _lr_scale(self) -> float:
        return float(self.data.config.batch_size / self.schedule_config.reference_batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer, with the learning rate scaled by the batch size, and the schedule per step."""
        batch, epoch = self.data.config.batch_size, self.data.steps_per_epoch
        ends = [self.trainer.max_steps] if self.trainer.max_steps >= 0 else []
        if self.trainer.max_epochs is not None and self.trainer.max_epochs >= 0:
            ends.append(self.trainer.max_epochs * epoch)
        schedule = plan(self.schedule_config, batch, epoch, min(ends, default=None))
        lr = self.lr
        has_kernel = self.device.type in ("cuda", "cpu") and not self._is_sharded  # not for all sharded parameters
        fused = has_kernel and may_fuse(self.trainer.precision)
        optimizer = self._optimizer(lr, fused)
        every, learn = (sum(p.numel() for p in self.parameters() if p.requires_grad or some) / 1e6 for some in (1, 0))
        self.print(f"Model: {self.model_name}, {every:.1f} M parameters, {learn:.1f} M trainable")
        self.print(describe(schedule, lr, batch, epoch))
        if line := describe_scaling(self.schedule_config, self.optimizer_config.lr, batch):
            self.print(line)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": LambdaLR(optimizer, self._factors(schedule.factor, optimizer)),
                "interval": "step",
            },
        }

    def _optimizer(self, lr: float, fused: bool) -> Optimizer:
        return build_optimizer(self.model, self.optimizer_config, lr, fused)

    def _factors(self, factor: Callable[[int], float], optimizer: Optimizer) -> Any:
        """Return the factor of the learning rate at a step, or one for each group of parameters."""
        return factor

    def on_fit_start(self) -> None:
        """Check the saved states of the optimizers before Lightning loads them."""
        if self._resumed is not None:
            with user_input():
                check_optimizers(self._resumed[0], self.trainer, self._resumed[1])
            self._resumed = None

    def on_train_start(self) -> None:
        start_at_scheduled_rates(self.trainer)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Free the gradients of the last step before the forward pass: they need as much memory as trainable weights.

        Lightning would free them only after it.
        """
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.zero_grad()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        complete_checkpoint(checkpoint, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reject a checkpoint with other classes or settings; set the position in the data for the resumed run."""
        source = str(self.trainer.ckpt_path or "checkpoint")
        check_checkpoint(checkpoint, self, source)
        self._resumed = checkpoint, source
        continue_training(checkpoint, self)

    def _copied(self, dataloader_idx: int, device: torch.device) -> Any:
        """Return Lightning's function that copies a batch to the device; measure its time while a clock is set."""
        if self.clock is not None:
            self.clock("transfer")
        return partial(super().transfer_batch_to_device, device=device, dataloader_idx=dataloader_idx)

    def _mark_evaluated(self) -> None:
        """Record that the evaluation after the last batch has finished."""
        if not self.trainer.sanity_checking:
            self.evaluated_batch = self.trainer.fit_loop.total_batch_idx

    def _generator(self, key: tuple[int, ...]) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(zlib.crc32(repr(key).encode()))

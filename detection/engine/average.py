"""Averaged weights: validation and ``best.ckpt`` use them instead of the weights of the last step."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from detection.engine.data_of import data_of


@dataclass(frozen=True)
class AverageConfig:
    """Average of the weights over the steps of a training."""

    kind: Literal["ema", "mean"] = "ema"
    """ema: exponential moving average. mean: equal weight for all updates, as in stochastic weight averaging."""
    decay: float = 0.9998
    """Fraction of the old average that each update keeps, from 0 to below 1. Only for ema. The first updates keep less,
    so that the average soon forgets the initial weights: after n updates, at most (1 + n) / (10 + n)."""
    reference_batch: int | None = None
    """Images per update for which decay is meant: with another batch size, the average covers the same number of
    images. null: decay is the same for every batch size."""
    start: float = 0.0
    """Fraction of the steps before averaging starts, from 0 to below 1; 0: from the first step. For the mean, 0.75 is
    usual (Izmailov et al. 2018, section 3)."""
    every: int = 1
    """Update the average after every N optimizer steps."""

    def decay_for(self, batch_size: int) -> float:
        """Return the decay of an update for a batch size (Busbridge et al. 2023, definition 1.2)."""
        if self.reference_batch is None:
            return self.decay
        return float(self.decay ** (batch_size * self.every / self.reference_batch))


class Average(WeightAveraging):
    """Average the weights of a model that the module's ``setup`` builds, with Lightning's ``WeightAveraging``.

    Validation and ``best.ckpt`` use the averaged weights. Each checkpoint also holds the weights of the last step, from
    which training resumes.
    """

    def __init__(self, config: AverageConfig) -> None:
        if not (0 <= config.decay < 1 and 0 <= config.start < 1 and config.every >= 1):
            raise ValueError(f"run.average: {config}: decay and start must be in [0, 1), every at least 1")
        if config.reference_batch is not None and config.reference_batch < 1:
            raise ValueError(f"run.average.reference_batch {config.reference_batch} must be at least 1")
        super().__init__()
        self._config, self._first = config, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Callbacks are set up before the module, and Lightning would copy it without the detector.
        pl_module.setup(stage)
        if stage == "fit":
            batch = data_of(trainer).config.batch_size if self._config.reference_batch else 1
            decay = self._config.decay_for(batch) if self._config.kind == "ema" else None
            self._average_model = Averaged(pl_module, pl_module.device, decay)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first = int(self._config.start * float(trainer.estimated_stepping_batches))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._copy_until_started(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._copy_until_started(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._copy_until_started(pl_module)
        super().on_train_end(trainer, pl_module)

    def _copy_until_started(self, module: LightningModule) -> None:
        if isinstance(self._average_model, Averaged):  # in training
            self._average_model.copy_until_started(module)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx >= self._first and (step_idx + 1) % self._config.every == 0


class Averaged(AveragedModel):
    """Update PyTorch's ``AveragedModel`` by one operation over all tensors.

    PyTorch's own update needs several operations for each of some hundred tensors. It also reads the number of updates
    from the device twice, which synchronises with the GPU at every step.

    Args:
        decay: fraction of the old average that each update keeps; None: the mean of all updates.
    """

    n_averaged: Tensor

    def __init__(self, model: nn.Module, device: torch.device, decay: float | None) -> None:
        super().__init__(model, device, use_buffers=True)
        self._decay = decay
        self._updates: int | None = None  # the value of n_averaged, after the first read from the device

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Add a model's parameters and buffers to the average; copy tensors that are not floating-point."""
        updates = self._count()
        averages, news = [], []
        for average, new in zip(_tensors(self.module), _tensors(model), strict=True):
            if updates and average.is_floating_point():
                averages.append(average)
                news.append(new)
            else:
                average.copy_(new)
        if averages:
            torch._foreach_lerp_(averages, news, self._weight(updates))
        self.n_averaged += 1
        self._updates = updates + 1

    def _weight(self, updates: int) -> float:
        """Return the weight of the model in the next average, after a number of updates."""
        if self._decay is None:
            return 1 / (updates + 1)
        return max(1 - self._decay, 9 / (updates + 10))

    @torch.no_grad()
    def copy_until_started(self, model: nn.Module) -> None:
        """Copy the model if no update has happened yet; the average would otherwise hold the initial weights."""
        if not self._count():
            for average, new in zip(_tensors(self.module), _tensors(model), strict=True):
                average.copy_(new)

    def _count(self) -> int:
        if self._updates is None:
            self._updates = int(self.n_averaged)
        return self._updates

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        self._updates = None
        return super().load_state_dict(*arguments, **options)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]

"""Averaged weights: smoother than the last step's, evaluated and saved in their place."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


@dataclass(frozen=True)
class AverageConfig:
    """An average of the weights that is kept beside the training."""

    kind: Literal["ema", "mean"] = "ema"
    """ema: exponential moving average. mean: of all steps alike, as in stochastic weight averaging."""
    decay: float = 0.9998
    """Part of the ema that stays at each update."""
    start: float = 0.0
    """Begin after this part of the run; 0.75 is usual for the mean (Izmailov et al. 2018, section 3)."""
    every: int = 1
    """Steps between two updates."""


class Average(WeightAveraging):
    """Lightning's weight averaging, for a model that is built in the module's ``setup``.

    Validation and ``best.ckpt`` have the averaged weights; a checkpoint also holds those that training continues with.
    """

    def __init__(self, config: AverageConfig) -> None:
        if not (0 <= config.decay < 1 and 0 <= config.start < 1 and config.every >= 1):
            raise ValueError(f"run.average: {config}: decay and start must be in [0, 1), every at least 1")
        super().__init__()
        self._config, self._first = config, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Callbacks are set up before the module, and Lightning would copy it without the detector.
        pl_module.setup(stage)
        if stage == "fit":
            decay = self._config.decay if self._config.kind == "ema" else None
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
    """PyTorch's average, updated by one operation over all tensors.

    PyTorch's own update takes several operations for each of some hundred tensors. It also reads the number of updates
    from the device twice, so that a GPU would run dry at every step.

    Args:
        decay: of the exponential moving average; None: the mean of all.
    """

    n_averaged: Tensor

    def __init__(self, model: nn.Module, device: torch.device, decay: float | None) -> None:
        super().__init__(model, device, use_buffers=True)
        self._decay = decay
        self._updates: int | None = None  # as n_averaged, once it has been asked

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in a model's parameters and buffers; those that are no fractions become its own."""
        updates = self._count()
        averages, news = [], []
        for average, new in zip(_tensors(self.module), _tensors(model), strict=True):
            if updates and average.is_floating_point():
                averages.append(average)
                news.append(new)
            else:
                average.copy_(new)
        if averages:
            weight = 1 / (updates + 1) if self._decay is None else 1 - self._decay
            torch._foreach_lerp_(averages, news, weight)
        self.n_averaged += 1
        self._updates = updates + 1

    @torch.no_grad()
    def copy_until_started(self, model: nn.Module) -> None:
        """Copy the model as long as no update has been made; the average would otherwise hold its first weights."""
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

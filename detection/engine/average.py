"""Averaged weights: smoother than the last step's, evaluated and saved in their place."""

from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_avg_fn


@dataclass(frozen=True)
class AverageConfig:
    """Which average of the weights is kept beside the training."""

    kind: Literal["ema", "mean"] = "ema"
    """ema: exponential moving average. mean: of all steps alike, as in stochastic weight averaging."""
    decay: float = 0.9998
    """How much of the ema stays at each update."""
    start: float = 0.0
    """Begin after this part of the run; 0.75 is usual for the mean (Izmailov et al. 2018, section 3)."""
    every: int = 1
    """Steps between two updates."""


class Average(WeightAveraging):
    """Lightning's weight averaging, for a model that is built in the module's ``setup``.

    Validation and ``best.ckpt`` have the averaged weights; a checkpoint also holds those that training goes on with.
    """

    def __init__(self, config: AverageConfig) -> None:
        if not (0 <= config.decay < 1 and 0 <= config.start < 1 and config.every >= 1):
            raise ValueError(f"run.average: {config}: decay and start must be in [0, 1), every at least 1")
        options: dict[str, Any] = {"avg_fn": get_ema_avg_fn(config.decay)} if config.kind == "ema" else {}
        super().__init__(use_buffers=True, **options)
        self._config, self._first = config, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Callbacks are set up before the module, and Lightning would copy it without the detector.
        pl_module.setup(stage)
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first = int(self._config.start * float(trainer.estimated_stepping_batches))

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx >= self._first and (step_idx + 1) % self._config.every == 0

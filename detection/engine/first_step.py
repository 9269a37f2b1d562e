"""Settings of the CPU's memory allocator for the first step of a training, and for all later ones."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detection.memory import begin_training, go_on_training


class FirstStepMemory(Callback):
    """Gives freed memory back during the first step on a CPU, and keeps it from then on.

    The first step allocates what stays, such as momentum. The loader's workers have started by then, and do not inherit
    the setting.

    Args:
        largest: bytes of the largest tensors of a step.
    """

    def __init__(self, largest: float) -> None:
        self.largest, self.over = largest, False

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        if not self.over and module.device.type == "cpu":
            begin_training()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if trainer.global_step and not self.over and module.device.type == "cpu":
            self.over = True
            go_on_training(self.largest)

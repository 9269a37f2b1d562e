"""Set the CPU's memory allocator for the first step of a training, and for all later steps."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detection.memory import begin_training, go_on_training


class FirstStepMemory(Callback):
    """Return freed memory to the system during the first step on a CPU, and keep it for reuse in later steps.

    The first step allocates permanent tensors, such as momentum. The loader's workers have started before it, so that
    they do not inherit the setting.

    Args:
        largest: size of the largest tensors of a step, in bytes.
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

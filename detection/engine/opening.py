"""Print the first lines of a run: device, precision, folder, and the trainable parts of the backbone."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from backbones import Backbone
from backbones.base import parameters_of

DOING = {"fit": "Training", "validate": "Evaluating", "test": "Testing", "predict": "Predicting"}
PRECISIONS = {
    "32-true": "float32",
    "64-true": "float64",
    "bf16-mixed": "bf16 (mixed)",
    "bf16-true": "bf16",
    "16-mixed": "fp16 (mixed)",
    "16-true": "fp16",
}


class Opening(Callback):
    """Print a line at the start of every command: device, number of processes, precision, folder."""

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # all ranks must call it
        module.print(opening(stage, trainer.strategy.root_device, trainer.world_size, str(trainer.precision), folder))


class FrozenParts(Callback):
    """Print at the start of training the number of trainable and frozen parameters of each backbone stage."""

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        backbone = getattr(getattr(module, "model", None), "backbone", None)
        if isinstance(backbone, Backbone):
            module.print(frozen_table(backbone))


def precision_name(precision: object) -> str:
    """Return a readable name for Lightning's name of a precision, such as ``bf16 (mixed)`` for ``bf16-mixed``."""
    return PRECISIONS.get(str(precision), str(precision))


def opening(stage: str, device: torch.device, processes: int, precision: str, folder: str | None) -> str:
    """Return a line such as ``Training on 2 x CPU in bf16 (mixed), into runs/mine``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    several = f"{processes} x " if processes > 1 else ""
    into = "" if folder is None or stage == "validate" else f", into {folder}"
    return f"{DOING[stage]} on {several}{name} in {precision_name(precision)}{into}"


def frozen_table(backbone: Backbone) -> str:
    """Return a table of trainable and frozen parameters, with the stage names that ``backbone.freeze`` accepts.

    For a backbone without stages, return one line.
    """
    learning = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    try:
        stages = backbone.stages()
    except NotImplementedError:
        return f"Backbone: {learning:,} trainable parameters of {sum(p.numel() for p in backbone.parameters()):,}"
    rows = [f"{'Backbone':10s}{'trainable':>14s}{'frozen':>14s}"]
    rest = {id(p): p for p in backbone.parameters()}
    named = [("stem" if i == 0 else f"layer{i}", parameters_of(stage)) for i, stage in enumerate(stages)]
    for _, parameters in named:
        for parameter in parameters:
            rest.pop(id(parameter), None)
    for name, parameters in [*named, *([("others", list(rest.values()))] if rest else [])]:
        counts = [sum(p.numel() for p in parameters if p.requires_grad is trains) for trains in (True, False)]
        rows.append(f"{name:10s}{counts[0]:14,d}{counts[1]:14,d}")
    return "\n".join(rows)

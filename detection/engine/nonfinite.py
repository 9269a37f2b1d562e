"""Losses and gradients that are not numbers: told, written down, and by choice stepped over."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from detection.engine.errors import NonFiniteError
from detection.engine.sharding import full
from detection.structures import IGNORE, Batch

ADVICE = "look at their annotations, or try a lower model.optimizer.lr or a longer model.schedule.warmup"


class StopAtNonFinite(Callback):
    """Stop when a loss is NaN or infinite, and say which one, on which images.

    Asking a GPU costs a stall, so there it is asked every ``log_every_n_steps`` about all steps since.
    """

    def __init__(self) -> None:
        self._recent: list[tuple[int, Tensor, Tensor]] = []

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        terms: dict[str, Tensor] = outputs["terms"]
        self._recent.append((trainer.global_step, torch.stack(list(terms.values())), batch.image_ids))
        interval = max(1, int(trainer.log_every_n_steps))  # type: ignore[attr-defined]
        if module.device.type != "cpu" and len(self._recent) < interval:
            return
        recent, self._recent = self._recent, []
        finite = torch.stack([losses.isfinite() for _, losses, _ in recent]).cpu()
        for (step, losses, ids), good in zip(recent, finite, strict=True):
            if not good.all():
                broken = _listed(dict(zip(terms, losses.tolist(), strict=True)))
                raise NonFiniteError(f"step {step}: {broken} on the images with id {_known(ids)}; {ADVICE}")


class SkipNonFinite(Callback):
    """Leave out steps whose gradient is not finite, at most ``limit`` of them, and write down what they were.

    Without gradients the optimizer changes nothing, momentum and weight decay included. All ranks see the same
    gradient and skip together. Every step waits for the device to answer.

    ``nonfinite/step_N_rank_R.json`` in the run's folder holds the images' ids, the loss terms and the gradient's norm
    by part of the detector.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._skipped = limit, 0
        self._norms: dict[str, float] | None = None

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        if str(trainer.precision).startswith("16"):
            return  # float16's scaler leaves steps out by itself, as a matter of course
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if full(torch.nn.utils.get_total_norm(gradients)).isfinite():
            return
        self._norms = _norms(module)
        for parameter in module.parameters():
            parameter.grad = None

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        if self._norms is None:
            return
        norms, self._norms, self._skipped = self._norms, None, self._skipped + 1
        terms = {name: float(value) for name, value in outputs["terms"].items()}
        folder = trainer.log_dir  # asks all ranks
        step, ids = trainer.global_step, [image_id for image_id in batch.image_ids.tolist() if image_id != IGNORE]
        if folder is not None:
            path = Path(folder) / "nonfinite" / f"step_{step}_rank_{trainer.global_rank}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {"step": step, "image_ids": ids, "terms": terms, "gradient_norms": norms}
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        where = f"step {step}: {_listed(terms | norms)} on the images with id {_known(batch.image_ids)}"
        if self._skipped > self._limit:
            raise NonFiniteError(f"{where}, after {self._limit} such steps were left out; {ADVICE}")
        module.print(f"{where}; left out ({self._skipped} of at most {self._limit})")


def _norms(module: LightningModule) -> dict[str, float]:
    """The gradient's norm by part of the detector."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(name.split(".")[1], []).append(parameter.grad)
    return {f"gradient of {part}": float(full(torch.nn.utils.get_total_norm(values))) for part, values in parts.items()}


def _listed(values: dict[str, float]) -> str:
    """Those that are not finite."""
    return ", ".join(f"{name} {value:g}" for name, value in values.items() if not abs(value) < float("inf"))


def _known(image_ids: Tensor) -> str:
    return ", ".join(str(image_id) for image_id in image_ids.tolist() if image_id != IGNORE)

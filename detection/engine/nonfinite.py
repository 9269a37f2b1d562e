"""Report and record NaN or infinite losses and gradients, and skip such steps if the user allows it.

``nonfinite/step_N_rank_R.json`` in the run's folder contains the images' IDs, the loss terms and the norm of the
gradient for each part of the detector. The ``.jpg`` beside it shows the images with their objects.
"""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from detection.engine.errors import NonFiniteError
from detection.engine.pictures import draw_batch
from detection.engine.sharding import full
from detection.engine.trainer import log_interval
from detection.structures import IGNORE, Batch
from detection.wording import plural

ADVICE = "look at their annotations, or try a lower model.optimizer.lr or a longer model.schedule.warmup"
DRAWN = 16
"""Maximum number of images that the ``.jpg`` shows."""


class StepRecorder(Callback):
    """Record a faulty step in the run's folder, as a JSON file and an image."""

    subfolder = "nonfinite"
    """Folder of the files, relative to the run's folder."""
    _folder: Path | None = None

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # all ranks must call it; later, only one rank may have a step to record
        self._folder = None if folder is None else Path(folder) / self.subfolder

    def _write(
        self,
        trainer: Trainer,
        module: LightningModule,
        step: int,
        image_ids: Tensor,
        terms: dict[str, float],
        norms: dict[str, float],
        batch: Batch | None,
    ) -> None:
        if self._folder is None:
            return
        path = self._folder / f"step_{step}_rank_{trainer.global_rank}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = [image_id for image_id in image_ids.tolist() if image_id != IGNORE]
        content = {"step": step, "image_ids": ids, "terms": terms, "gradient_norms": norms}
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        if batch is not None:
            draw_batch(path.with_suffix(".jpg"), module, batch, DRAWN)


class StopAtNonFinite(StepRecorder):
    """Stop when a loss is NaN or infinite: record the step, and name the loss and the images.

    Synchronising with a GPU stalls it. On a GPU, this callback therefore checks the losses only every
    ``log_every_n_steps``. It can draw images and compute gradient norms only for the last of these steps.
    """

    def __init__(self) -> None:
        self._recent: list[tuple[int, Tensor, Tensor]] = []

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        terms: dict[str, Tensor] = outputs["terms"]
        self._recent.append((trainer.global_step, torch.stack(list(terms.values())), batch.image_ids))
        interval = log_interval(trainer)
        if module.device.type != "cpu" and len(self._recent) < interval:
            return
        recent, self._recent = self._recent, []
        finite = torch.stack([losses.isfinite() for _, losses, _ in recent]).cpu()
        for (step, losses, ids), good in zip(recent, finite, strict=True):
            if not good.all():
                values = dict(zip(terms, losses.tolist(), strict=True))
                last = step == trainer.global_step
                # Only one of several ranks may reach this line, and norms of shards would wait for the others.
                norms = _norms(module) if last and trainer.world_size == 1 else {}
                self._write(trainer, module, step, ids, values, norms, batch if last else None)
                broken = _listed(values)
                raise NonFiniteError(f"step {step}: {broken} on the images with id {listed_ids(ids)}; {ADVICE}")


class SkipNonFinite(StepRecorder):
    """Skip and record steps whose gradient is NaN or infinite, at most ``limit`` of them.

    Without gradients, the optimizer changes neither weights nor momentum, and applies no weight decay. All ranks have
    the same gradient and skip together. Every step synchronises with the device.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._skipped = limit, 0
        self._norms: dict[str, float] | None = None

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        if str(trainer.precision).startswith("16"):
            return  # the gradient scaler of float16 skips such steps itself, which is normal
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
        step = trainer.global_step
        self._write(trainer, module, step, batch.image_ids, terms, norms, batch)
        where = f"step {step}: {_listed(terms | norms)} on the images with id {listed_ids(batch.image_ids)}"
        if self._skipped > self._limit:
            raise NonFiniteError(
                f"{where}, after {plural(self._limit, 'such step was', 'such steps were')} skipped; {ADVICE}"
            )
        module.print(f"{where}; skipped ({self._skipped} of at most {self._limit})")


def _norms(module: LightningModule) -> dict[str, float]:
    """Return the norm of the gradient for each part of the detector."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(name.split(".")[1], []).append(parameter.grad)
    return {f"gradient of {part}": float(full(torch.nn.utils.get_total_norm(values))) for part, values in parts.items()}


def _listed(values: dict[str, float]) -> str:
    """Return the names and values of NaN or infinite entries as text."""
    return ", ".join(f"{name} {value:g}" for name, value in values.items() if not abs(value) < float("inf"))


def listed_ids(image_ids: Tensor) -> str:
    """Return the IDs of a batch's images as text, without those of padding."""
    return ", ".join(str(image_id) for image_id in image_ids.tolist() if image_id != IGNORE)

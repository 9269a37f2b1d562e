"""Search for a learning rate: raise it step by step, and watch the loss (Smith 2017, "Cyclical learning rates").

Lightning runs the steps. Its own suggestion is where the loss falls fastest per unit of the rate, so it prefers small
rates. The suggestion here is where the loss falls fastest as the rate grows by a factor.
"""

import csv
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities.exceptions import _TunerExitException

from detection.engine.data_of import data_of
from detection.engine.errors import InputError
from detection.wording import plural

STEPS = 100
"""Steps of the search."""
RANGE = (1e-3, 1e2)
"""Smallest and largest rate of the search, as factors of the configured rate."""
SKIPPED = 10
"""Steps at the beginning that the suggestion ignores: the mean of the losses is not smooth there."""
SMOOTHING = 0.98
"""Fraction of the old mean that Lightning keeps in its moving mean of the loss."""
NEIGHBOURS = 4
"""Steps on either side of one from which its slope is computed; the losses of single batches differ too much."""
NEVER = 10**9
"""Epochs between two validations during a search."""


class Suggestion(NamedTuple):
    """What the curve of the loss says."""

    steepest: float
    """Rate at which the loss falls fastest."""
    lowest: float
    """Rate at which the loss is lowest."""


class FindRate(LearningRateFinder):
    """Run the search instead of a training; write its curve, and print the suggested rate.

    The weights, and the checkpoints of the folder, stay as they are.
    """

    def __init__(self) -> None:
        super().__init__(num_training_steps=STEPS, update_attr=False)

    def lr_find(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search around the rate of the settings, then end the run."""
        rate = float(pl_module.lr)  # type: ignore[arg-type]  # of ResumableModule
        self._min_lr, self._max_lr = (rate * factor for factor in RANGE)
        logger = logging.getLogger("lightning.pytorch")
        level = logger.level
        logger.setLevel(logging.ERROR)  # no lines about the checkpoint that Lightning writes and removes again
        try:
            super().lr_find(trainer, pl_module)
        finally:
            logger.setLevel(level)
        if trainer.is_global_zero:
            self._report(trainer, pl_module)
        raise _TunerExitException  # as Lightning does to end a run after its tuners

    def _report(self, trainer: Trainer, module: LightningModule) -> None:
        assert self.optimal_lr is not None
        found = self.optimal_lr.results
        rates, losses = found["lr"][: len(found["loss"])], unbiased(found["loss"])
        suggested = suggest(rates, losses)
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_curve(rates, losses, folder / "find_lr.csv")
        plot_curve(rates, losses, suggested, folder / "find_lr.png")
        batch = data_of(trainer).config.batch_size
        module.print(
            f"Learning rate: the loss falls fastest at {suggested.steepest:.2g}, and is lowest at "
            f"{suggested.lowest:.2g}, for {plural(batch, 'image')} per step. Curve: {folder / 'find_lr.png'}\n"
            f"Train with --lr {suggested.steepest:.2g}; nothing was trained"
        )


def prepare(config: Any) -> None:
    """Change the settings of ``fit`` for a search: no validation, no average, and no end before the last step."""
    if config.get("ckpt_path"):
        raise InputError("--find-lr starts from the initial weights; leave --resume out")
    config.run.average = None
    config.trainer.max_epochs = config.trainer.max_steps = -1
    config.trainer.check_val_every_n_epoch, config.trainer.val_check_interval = NEVER, 1.0
    config.trainer.num_sanity_val_steps = 0


def unbiased(losses: Sequence[float]) -> list[float]:
    """Return Lightning's moving means, divided by the weights of the steps that they contain.

    Lightning counts one step too many: its first mean is half of the first loss.
    """
    return [x * (1 - SMOOTHING ** (k + 2)) / (1 - SMOOTHING ** (k + 1)) for k, x in enumerate(losses)]


def suggest(rates: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """Return where the loss falls fastest over the logarithm of the rate, and where it is lowest.

    Raises:
        InputError: the loss is finite in too few steps.
    """
    pairs = list(zip(rates, losses, strict=True))[SKIPPED:]
    points = np.array([(math.log(rate), loss) for rate, loss in pairs if math.isfinite(loss)])
    if len(points) <= 2 * NEIGHBOURS:
        raise InputError(
            f"--find-lr: after the first {SKIPPED}, only {plural(len(points), 'step')} had a finite loss; reduce --lr"
        )
    lowest = int(points[:, 1].argmin())
    middles = range(NEIGHBOURS, max(NEIGHBOURS, min(lowest, len(points) - NEIGHBOURS - 1)) + 1)
    around = [points[k - NEIGHBOURS : k + NEIGHBOURS + 1] for k in middles]
    slopes = [np.polyfit(near[:, 0], near[:, 1], 1)[0] for near in around]
    return Suggestion(*(math.exp(points[k, 0]) for k in (middles[int(np.argmin(slopes))], lowest)))


def write_curve(rates: Sequence[float], losses: Sequence[float], path: Path) -> None:
    """Write the rate of each step, and the moving mean of the loss."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["lr", "loss"])
        writer.writerows((f"{rate:.6g}", f"{loss:.6g}") for rate, loss in zip(rates, losses, strict=True))


def plot_curve(rates: Sequence[float], losses: Sequence[float], suggested: Suggestion, path: Path) -> None:
    """Draw the loss over the rate, and the suggested rate."""
    from matplotlib.figure import Figure  # takes half a second

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(rates, losses)
    axes.axvline(suggested.steepest, color="C2", label=f"falls fastest: {suggested.steepest:.2g}")
    axes.axvline(suggested.lowest, color="C3", linestyle="--", label=f"lowest: {suggested.lowest:.2g}")
    axes.set(xlabel="learning rate", ylabel="moving mean of the loss", title="Search for a learning rate")
    finite = [loss for loss in losses if math.isfinite(loss)]
    low, first = min(finite), finite[min(SKIPPED, len(finite) - 1)]
    axes.set_ylim(low - 0.1 * (first - low), first + 0.5 * (first - low))  # the loss can rise to thousands
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)

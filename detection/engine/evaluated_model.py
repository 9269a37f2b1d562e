"""Prepare the detector for an evaluation: gather it on each device, fold its norms, compile its common sizes."""

from collections.abc import Set
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule

from detection.engine.sharding import Sharded, gather, release
from detection.fast.folding import folded
from detection.models.detector import Detector
from detection.structures import Batch


class EvaluatedModel:
    """Prepare a detector for an evaluation, and restore it for training.

    Args:
        compiled: the detector is compiled with torch.compile.
    """

    def __init__(self, compiled: bool) -> None:
        self._compiled = compiled
        self._folded: Detector | None = None
        self._common_shapes: Set[tuple[int, ...]] = frozenset()

    def start(self, module: LightningModule, common_shapes: Set[tuple[int, ...]] = frozenset()) -> None:
        """Prepare for an evaluation; all ranks must call this method.

        Args:
            module: module with the detector as ``model``.
            common_shapes: (B, H, W) of batches that are frequent enough to compile.
        """
        self._common_shapes = common_shapes
        if isinstance(module.trainer.strategy, Sharded):
            gather(module)
        elif module.trainer.precision == "bf16-mixed" and not self._compiled:
            self._folded = folded(module.model)  # type: ignore[arg-type]

    def end(self, module: LightningModule) -> None:
        """Undo :meth:`start`."""
        self._folded = None
        if isinstance(module.trainer.strategy, Sharded):
            release(module)

    def of(self, model: Detector) -> Detector:
        """Return the detector for the evaluation: with folded norms, or the given one."""
        return model if self._folded is None else self._folded

    def eager_if_rare(self, batch: Batch) -> AbstractContextManager[Any]:
        """Return a context without compilation for a batch of a rare size.

        Evaluation pads images to many sizes; compiling the rare ones would take longer than it saves.
        """
        size, _, *canvas = batch.images.shape
        rare = self._compiled and (size, *canvas) not in self._common_shapes
        return torch.compiler.set_stance("force_eager") if rare else nullcontext()

"""Read and write checkpoints for Lightning."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from detection.checkpoint_files import read_checkpoint, write_checkpoint
from detection.engine.checkpoint_checks import check_layout
from detection.engine.errors import NonFiniteError, user_input


class AtomicCheckpointIO(CheckpointIO):
    """Write complete files only, never run code from a file, and never write weights with NaN or Inf."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint with :func:`~detection.checkpoint_files.write_checkpoint`.

        Raises:
            NonFiniteError: a weight is NaN or infinite; the older checkpoint is kept.
            InputError: the file cannot be written, for example because the disk is full.
        """
        broken = _not_finite(checkpoint["state_dict"])
        if broken:
            raise NonFiniteError(f"{path} is not written: {broken} is not finite; an older checkpoint is kept")
        with user_input():
            write_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint with :func:`~detection.checkpoint_files.read_checkpoint`, and check its layout.

        ``weights_only`` has no effect: reading never runs code from the file.
        """
        with user_input():
            content = read_checkpoint(path, map_location="cpu" if map_location is None else map_location)
            check_layout(content, str(path))
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file if it exists."""
        Path(path).unlink(missing_ok=True)


def _not_finite(state: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor with NaN or Inf, or None; synchronise with the device only once."""
    floats = {name: value for name, value in state.items() if value.is_floating_point() and value.numel()}
    finite = [torch.linalg.vector_norm(value, math.inf).isfinite() for value in floats.values()]
    found = torch.stack([one.to(finite[0].device) for one in finite]).tolist() if finite else []
    return next((name for name, good in zip(floats, found, strict=True) if not good), None)

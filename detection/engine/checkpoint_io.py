"""Reading and writing of checkpoints for Lightning."""

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
    """Whole files or none, nothing that runs code, and never weights that are not numbers."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """As :func:`~detection.checkpoint_files.write_checkpoint`.

        Raises:
            NonFiniteError: a weight is NaN or infinite; the older checkpoint stays.
            InputError: it cannot be written, as on a full disk.
        """
        broken = _not_finite(checkpoint["state_dict"])
        if broken:
            raise NonFiniteError(f"{path} is not written: {broken} is not finite; an older checkpoint is kept")
        with user_input():
            write_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """As :func:`~detection.checkpoint_files.read_checkpoint`, whatever ``weights_only`` says, layout checked."""
        with user_input():
            content = read_checkpoint(path, map_location="cpu" if map_location is None else map_location)
            check_layout(content, str(path))
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file, if it is there."""
        Path(path).unlink(missing_ok=True)


def _not_finite(state: Mapping[str, Any]) -> str | None:
    """The name of the first tensor with NaN or infinite values; one wait for the device for all of them."""
    floats = {name: value for name, value in state.items() if value.is_floating_point() and value.numel()}
    finite = [torch.linalg.vector_norm(value, math.inf).isfinite() for value in floats.values()]
    found = torch.stack([one.to(finite[0].device) for one in finite]).tolist() if finite else []
    return next((name for name, good in zip(floats, found, strict=True) if not good), None)

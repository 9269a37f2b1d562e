"""Trace a module with ``torch.export``, with one line where that fails, and without its warnings."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MOST_IMAGES = 256
"""Largest batch."""


def traced(form: nn.Module, inputs: tuple[Tensor, ...], free: Any, failure: str) -> Any:
    """Trace a module.

    Args:
        inputs: examples of its inputs.
        free: the dimensions of each input that can have other sizes, as ``dynamic_shapes`` of ``torch.export.export``.
        failure: what an error begins with.

    Returns:
        A ``torch.export.ExportedProgram``.

    Raises:
        ValueError: a part cannot be traced.
    """
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(form, inputs, dynamic_shapes=free, strict=False)
    except Exception as error:  # PyTorch raises many kinds
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{failure}: {reason[:300]}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the exporter's warnings about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

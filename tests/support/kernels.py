"""Kernels in tests: on a GPU where there is one, else interpreted, step by step, by NumPy (tests/conftest.py)."""

import importlib
from typing import Any

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def kernels(module: str) -> Any:
    """A module of kernels; where these can be neither made nor interpreted, the tests of it are skipped."""
    triton = pytest.importorskip("triton", reason="Triton is not made for this system")
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if DEVICE == "cpu" and version < (3, 8):
        pytest.skip("this Triton's interpreter does not know NumPy of today", allow_module_level=True)
    return importlib.import_module(module)

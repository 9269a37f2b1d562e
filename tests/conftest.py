"""Fixtures that several test modules share."""

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from docstring_parser.attrdoc import AttributeDocstrings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels for GPUs are then computed step by step, by NumPy

# jsonargparse would parse the source of every settings class again for every command line.
_read = AttributeDocstrings.get_attr_docs
_once = cache(lambda component: _read(AttributeDocstrings(), component))
AttributeDocstrings.get_attr_docs = lambda _, component: _once(component)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Tiny tensors lose more to thread hand-over than they gain; beside other processes of pytest one is enough."""
    most = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
    torch.set_num_threads(min(most, torch.get_num_threads()))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that use it are skipped where it is missing."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data not found: {folder}")
    return folder

"""Which machines take kernels, and that these compile for GPUs that are not here."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from backbones.fast import kernels, switch

ROOT = Path(__file__).resolve().parents[4]


def test_a_cpu_takes_none():
    assert not kernels.usable(torch.zeros(1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_takes_them_for_numbers_of_known_kinds_unless_switched_off(monkeypatch):
    x = torch.zeros(1, device="cuda")
    assert kernels.usable(x)
    assert kernels.usable(x.bfloat16())
    assert not kernels.usable(x.double())
    monkeypatch.setattr(switch, "words", lambda: frozenset({"no-triton"}))
    assert not kernels.usable(x)


def test_where_triton_cannot_compile_it_is_said_and_slower_ways_are_taken(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not made for this system")
    from backbones.fast.kernels import epilogue

    def fails(*_):
        raise RuntimeError("Failed to find C compiler\nmore")

    capability = [(8, 0)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    monkeypatch.setattr(epilogue, "finish", fails)
    monkeypatch.setattr(torch, "zeros", lambda *a, device=None, _zeros=torch.zeros: _zeros(*a))
    with pytest.warns(UserWarning, match=r"\(Failed to find C compiler\); using slower"):
        assert not kernels._compiles.__wrapped__(torch.device("cuda"))
    capability[0] = (7, 5)  # known to be too old: nothing is tried, and nothing said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not kernels._compiles.__wrapped__(torch.device("cuda"))


@pytest.mark.slow
def test_every_kernel_compiles_for_gpus_that_are_not_here():
    pytest.importorskip("triton", reason="Triton is not made for this system")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.backbones.fast.kernels.compile_all", "80", "90"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 18
    # Memory is read in pieces of 16 bytes where that counts; products and sums are rounded one by one where bits count.
    wide = {line.split()[1] for line in lines if "v4" in line}
    assert {"_finish", "_pool", "_add_gradient", "_gradient"} <= wide
    assert not [line for line in lines if "fma" in line and line.split()[1] in ("_compare", "_best", "_claim")]

"""A few kills of a training; ``torture.py`` does any number of them."""

import importlib.util
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detection.checkpoint import read_checkpoint
from detection.shapes import write_shapes

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.mark.slow
def test_a_run_survives_kills(tmp_path):
    done = subprocess.run(
        [sys.executable, str(HERE / "torture.py"), "16", "1", "32"],
        capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "differences to a run left alone: 0" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    """Writing fails in the middle of the second save: the first one stays, and the message says what to do."""
    spec = importlib.util.spec_from_file_location("torture", HERE / "torture.py")
    torture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(torture)
    root, folder = write_shapes(tmp_path / "shapes", train=8, val=2, size=(64, 96)), tmp_path / "run"
    arguments = ["fit", "--data.root", str(root), "--run.folder", str(folder), *torture.SETTINGS]
    command = [sys.executable, "-m", "detection", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    first = subprocess.run(
        [*command, "--model.schedule.length", "1"], env=environment, capture_output=True, timeout=120
    )
    assert first.returncode == 0, first.stderr[-2000:]
    checkpoint = folder / "checkpoints" / "last.ckpt"
    size = checkpoint.stat().st_size

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    full = subprocess.run(
        [*command, "--resume", "auto"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=small_disk,
    )
    assert full.returncode != 0
    assert "last.ckpt: cannot be written (File too large); the older file is intact" in full.stderr
    assert read_checkpoint(checkpoint)["global_step"] == 4
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["last.ckpt"]
    again = subprocess.run([*command, "--resume", "auto", "--model.schedule.length", "2"], env=environment, timeout=120)
    assert again.returncode == 0
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 8

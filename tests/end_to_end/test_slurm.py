"""The batch script with fakes for ``srun`` and ``scontrol``, which set the variables of Slurm."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from detection.shapes import write_shapes
from tests.end_to_end.test_processes import tiny

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools/slurm/train.sbatch"
pytestmark = pytest.mark.slow

SRUN = """#!/bin/bash
# Each task with its rank; a signal to srun goes to all of them.
while [[ $1 == --* ]]; do shift; done
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NODEID=0 "$@" &
    tasks+=($!)
done
trap 'kill -USR1 "${tasks[@]}"' USR1
code=0
for task in "${tasks[@]}"; do
    wait "$task"; now=$?
    while kill -0 "$task" 2>/dev/null; do wait "$task"; now=$?; done
    [ $now -gt $code ] && code=$now
done
exit $code
"""


@pytest.fixture
def cluster(tmp_path):
    """Start the batch script as Slurm would: two tasks on one node."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text(SRUN)
    (programs / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/scontrol.log\n')
    (programs / "python").write_text(f'#!/bin/bash\nexec "{sys.executable}" "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    root = write_shapes(tmp_path / "shapes", train=8, val=2, size=(64, 96))
    settings = tiny()
    settings = settings | {"data": {**settings["data"], "root": str(root)}, "run": {"pictures": 0}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    slurm = {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "rcnn", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1", "SLURM_NODELIST": "localhost", "SLURM_JOB_NUM_NODES": "1",
    }  # fmt: skip
    environment = {**os.environ, **slurm, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def start(*options):
        command = ["bash", str(SCRIPT), "--config", str(tmp_path / "tiny.yaml"), *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
        return subprocess.Popen(command, cwd=tmp_path, **pipes)

    return start


def test_a_job_that_is_warned_saves_itself_is_requeued_and_goes_on(cluster, tmp_path):
    options = ("--run.folder", "run", "--model.schedule.length", "500", "--trainer.limit_val_batches", "0")
    job = cluster(*options)
    metrics = tmp_path / "run" / "train.csv"
    until = time.monotonic() + 90
    while not metrics.is_file() and job.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
    job.send_signal(signal.SIGUSR1)
    output, _ = job.communicate(timeout=90)
    assert job.returncode != 0, output
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n"
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    assert step > 0
    again = cluster(*options, "--trainer.max_steps", str(step + 3), "--trainer.max_epochs", "-1")
    output, _ = again.communicate(timeout=90)
    assert again.returncode == 0, output
    assert torch.load(last, weights_only=True)["global_step"] == step + 3


def test_a_run_without_a_place_is_refused():
    done = subprocess.run(["bash", str(SCRIPT), "--config", "any"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--output runs/NAME" in done.stderr

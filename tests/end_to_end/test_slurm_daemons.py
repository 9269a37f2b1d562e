"""The batch script under Slurm itself: two nodes on this machine, with a controller and two daemons of our own.

Needs root and Debian's packages ``slurm-wlm`` and ``munge``.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from detection.checkpoint import read_checkpoint
from detection.shapes import write_shapes
from tests.end_to_end.test_processes import tiny

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools/slurm/train.sbatch"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, PROGRAMS)) or os.geteuid() != 0, reason="needs root, slurm-wlm and munge"
    ),
]

CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=1,sched_interval=2
KillWait=10
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={one} CPUs=1
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={two} CPUs=1
PartitionName=low Nodes=one,two Default=YES State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes=one,two State=UP PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """The daemons, and the commands of a user."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._daemons = folder, []
        ports = {name: free_port() for name in ("controller", "one", "two")}
        configuration = folder / "slurm.conf"
        configuration.write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder, **ports))
        for name in ("state", "spool.one", "spool.two"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        self._environment = {
            **os.environ, "SLURM_CONF": str(configuration), "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        files = [f"--{name.partition('.')[2]}-file={folder / name}" for name in ("m.key", "m.log", "m.pid", "m.seed")]
        files[0] = f"--key-file={folder / 'munge.key'}"
        self._daemon("munged", "--foreground", "--force", f"--socket={folder / 'munge.socket'}", *files)
        self._daemon("slurmctld", "-D", "-c")
        for node in ("one", "two"):
            self._daemon("slurmd", "-D", "-N", node)
        self.wait(lambda: self.run("sinfo", "-h", "-o", "%T %D") == "idle 2", 30)

    def _daemon(self, *command: str) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._daemons.append(subprocess.Popen(command, env=self._environment, cwd=self.folder, **quiet))
        time.sleep(0.3)

    def run(self, *command: str) -> str:
        """What a command prints; empty where it failed."""
        return subprocess.run(
            command, env=self._environment, cwd=self.folder, capture_output=True, text=True
        ).stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S+)", self.run("scontrol", "show", "job", job)))

    def wait(self, is_so, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < until, self.told()
            time.sleep(0.2)

    def told(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in self.folder.glob("*.log"))

    def close(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()  # a node waits for a job that will not end


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def cluster(tmp_path):
    root = write_shapes(tmp_path / "shapes", train=8, val=2, size=(64, 96))
    settings = tiny()
    settings = settings | {"data": {**settings["data"], "root": str(root)}, "run": {"pictures": 0}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.run("scancel", "--user", "root")
    cluster.close()


def submit(cluster, *options, steps=60):
    """The training as a job of two nodes; its number."""
    resources = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=0", "--output=job.log")
    settings = ("--config", "tiny.yaml", "--run.folder", "run", "--trainer.limit_val_batches", "0")
    length = ("--model.schedule.length", str(steps), "--trainer.max_steps", str(steps))
    out = cluster.run("sbatch", "--parsable", *resources, *options, str(SCRIPT), *settings, *length)
    assert out.isdigit(), cluster.told()
    return out


def test_a_preempted_job_goes_on_where_it_was(cluster):
    job = submit(cluster, steps=400)
    metrics = cluster.folder / "run" / "train.csv"
    cluster.wait(metrics.is_file, 90)
    urgent = cluster.run("sbatch", "--parsable", "--partition=high", "--nodes=2", "--time=1", "--wrap", "sleep 3")
    cluster.wait(lambda: cluster.state(urgent)["JobState"] == "COMPLETED", 90)
    saved = read_checkpoint(cluster.folder / "run" / "checkpoints" / "last.ckpt")["global_step"]
    assert 0 < saved < 400
    cluster.wait(lambda: cluster.state(job)["JobState"] == "COMPLETED", 400)
    assert cluster.state(job)["Restarts"] == "1"
    assert read_checkpoint(cluster.folder / "run" / "checkpoints" / "last.ckpt")["global_step"] == 400


def test_a_job_at_its_time_limit_goes_on(cluster):
    job = submit(cluster, "--signal=USR1@30", steps=200)
    cluster.wait((cluster.folder / "run" / "train.csv").is_file, 90)
    cluster.run("scancel", "--signal=USR1", job)  # what the controller sends when the time comes
    cluster.wait(lambda: cluster.state(job)["JobState"] == "COMPLETED", 400)
    assert cluster.state(job)["Restarts"] == "1"


def test_a_cancelled_job_saves_itself_and_stays_cancelled(cluster):
    job = submit(cluster, steps=2000)
    cluster.wait((cluster.folder / "run" / "train.csv").is_file, 90)
    cluster.run("scancel", job)
    cluster.wait(lambda: cluster.state(job)["JobState"] == "CANCELLED", 60)
    time.sleep(3)
    assert cluster.state(job)["JobState"] == "CANCELLED"
    assert read_checkpoint(cluster.folder / "run" / "checkpoints" / "last.ckpt")["global_step"] > 0

"""What is left of a group of processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

RANK = """
from pathlib import Path
import torch.distributed as dist

def threads():
    names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return sum("gloo" in name for name in names)

{begin}:
    import torchvision  # as a model does, which is imported late
    ranks = [None, None]
    dist.all_gather_object(ranks, dist.get_rank())
    assert ranks == [0, 1] and threads()
{end}
print(threads())
"""
OURS = RANK.format(begin="from detection.report.processes import processes\nwith processes()", end="")
PLAIN = RANK.format(begin="dist.init_process_group('gloo')\nif True", end="dist.destroy_process_group()")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux tells them")
@pytest.mark.parametrize(
    ("script", "left"),
    [
        pytest.param(OURS, False, id="ours"),
        pytest.param(PLAIN, True, id="PyTorch alone", marks=pytest.mark.slow),
    ],
)
def test_no_thread_is_left_that_could_abort_the_end_of_the_program(script, left):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    connected = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **connected, "RANK": str(rank)},
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    assert [int(rank.communicate(timeout=120)[0]) > 0 for rank in ranks] == [left, left]

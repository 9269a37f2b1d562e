"""Processes that remain after a group of processes ends."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from detection.report.processes import processes
from tests.detection.evaluation.test_gather import in_two_processes

RANK = """
import os, sys
from pathlib import Path
import torch.distributed as dist

os.environ.update(RANK=sys.argv[1], WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=sys.argv[2])

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
        pytest.param(OURS, False, id="ours", marks=pytest.mark.slow),
        pytest.param(PLAIN, True, id="PyTorch alone", marks=pytest.mark.slow),
    ],
)
def test_no_thread_is_left_that_could_abort_the_end_of_the_program(script, left):
    assert [number > 0 for number in in_two_processes(script, "")] == [left, left]


@pytest.mark.parametrize(("local_rank", "gpus", "expected"), [("1", 1, 0), ("1", 2, 1), ("5", 4, 1)])
def test_processes_share_gpus_where_there_are_fewer(monkeypatch, local_rank, gpus, expected):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    for name in ("init_process_group", "get_rank", "destroy_process_group"):
        monkeypatch.setattr(dist, name, lambda *_: int(local_rank))
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with processes() as rank:
        assert rank == int(local_rank)
    assert chosen == [expected]

"""torchrun's agent and its ranks, forked from a process that has imported everything: a launch costs one second."""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

ROOT = Path(__file__).resolve().parents[2]


class Launch:
    """A node's agent with its ranks, as a process of its own.

    Args:
        ranks: of this node.
        arguments: of ``rcnn``.
        folder: where it runs; modules there can be imported.
        nodes: how many, and the port of 127.0.0.1 where they meet.
    """

    def __init__(
        self, ranks: int, arguments: Sequence[str], folder: Path, nodes: int = 1, port: int | None = None
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.end_to_end.ranks_imports"])
        self._log = folder / f"launch_{id(self)}.txt"
        self._process = context.Process(target=_agent, args=(ranks, list(arguments), folder, nodes, port, self._log))
        self._process.start()

    def wait(self, seconds: float = 120) -> int:
        """The exit code; 1 where a rank has failed."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            raise TimeoutError(self.output)
        return self._process.exitcode

    @property
    def output(self) -> str:
        """What all of it has printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def _agent(ranks: int, arguments: list[str], folder: Path, nodes: int, port: int | None, log: Path) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(ROOT)]
    # Lightning would give every rank of another number of ranks another number of threads, and with it other last bits.
    os.environ["OMP_NUM_THREADS"] = "1"
    config = LaunchConfig(
        min_nodes=nodes, max_nodes=nodes, nproc_per_node=ranks, run_id=f"test{port}", rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{port or 0}", local_addr="127.0.0.1", max_restarts=0, monitor_interval=0.1,
        start_method="fork",
    )  # fmt: skip
    try:
        elastic_launch(config, _rank)(arguments)
    except ChildFailedError as error:
        print(error, flush=True)
        os._exit(1)


def _rank(arguments: list[str]) -> None:
    from detection.cli import main

    torch.set_num_threads(1)
    sys.argv = ["rcnn", *arguments]
    sys.exit(main(arguments))

"""Several processes on a CPU, as a cluster would start them: torchrun, two and three ranks, one and two nodes."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from detection import load_model
from detection.run_files import evaluations, read_table
from detection.shapes import write_shapes
from tests.end_to_end.ranks import Launch
from tests.outcomes import content, different, outcome

ROOT = Path(__file__).resolve().parents[2]

AGENT = """
import os, signal
from lightning.pytorch import Callback

class Agent(Callback):
    '''On one rank, at one step: raises, or signals itself, or (signal 0) spoils a gradient.'''

    def __init__(self, rank: int, step: int, signal: int | None = None):
        self.rank, self.step, self.signal = rank, step, signal

    def on_after_backward(self, trainer, module):
        if self.signal == 0 and trainer.global_rank == self.rank and trainer.global_step == self.step:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            gradients[-1].mul_(float("nan"))

    def on_before_backward(self, trainer, module, loss):
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            if self.signal is None:
                raise RuntimeError("broken on purpose")
            os.kill(os.getpid(), self.signal)

class DiesEvaluating(Callback):
    '''On one rank, in the evaluation after a step: ends the process.'''

    def __init__(self, rank: int, step: int):
        self.rank, self.step = rank, step

    def on_validation_batch_end(self, trainer, module, *_):
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def tiny() -> dict:
    """The settings of the engine's tests."""
    path = ROOT / "tests/detection/engine/conftest.py"
    spec = importlib.util.spec_from_file_location("engine_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TINY


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Seven images to train on, which no number of ranks divides, and five to validate on."""
    folder = tmp_path_factory.mktemp("processes")
    root = write_shapes(folder / "shapes", train=7, val=5, size=(64, 96))
    settings = tiny()
    settings = settings | {"data": {**settings["data"], "root": str(root)}, "run": {"pictures": 0}}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    (folder / "agent.py").write_text(AGENT)
    return path


def launch(config, ranks, *options, subcommand="fit", strategy="ddp", **nodes) -> Launch:
    arguments = [subcommand, "--config", str(config), "--trainer.devices", str(ranks), "--trainer.strategy", strategy]
    return Launch(ranks, [*arguments, *map(str, options)], config.parent, **nodes)


def torchrun(config, ranks, *options, subcommand="fit", strategy="ddp", code=0) -> Launch:
    """Run ``ranks`` processes to their end."""
    launched = launch(config, ranks, *options, subcommand=subcommand, strategy=strategy)
    assert launched.wait() == code, launched.output
    return launched


def agent(**settings) -> tuple[str, str]:
    return "--trainer.callbacks", json.dumps({"class_path": "agent.Agent", "init_args": settings})


def last(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def same_weights(one: Path, two: Path) -> bool:
    one, two = last(one)["state_dict"], last(two)["state_dict"]
    return all(torch.equal(one[name], two[name]) for name in one)


FOUR_EPOCHS = ("--model.schedule.length", "4", "--trainer.limit_val_batches", "0")
"""Of three steps each."""


@pytest.fixture(scope="module")
def whole(config):
    """Two ranks that were never stopped."""
    torchrun(config, 2, *FOUR_EPOCHS, "--run.folder", config.parent / "whole")
    return config.parent / "whole"


@pytest.mark.slow
@pytest.mark.parametrize(("step", "workers"), [(5, 0), pytest.param(6, 2, marks=pytest.mark.slow)])
def test_two_ranks_stopped_and_resumed_equal_two_that_were_not(config, whole, tmp_path, step, workers):
    """The ranks agree to stop at step 10, after the first of the fourth epoch; how many load images does not matter."""
    options = (*FOUR_EPOCHS, "--data.workers", workers, "--run.folder", tmp_path)
    stopped = torchrun(config, 2, *options, *agent(rank=1, step=step, signal=15), code=1)
    assert "exitcode  : 143" in stopped.output
    assert last(tmp_path)["global_step"] == 10
    torchrun(config, 2, *options, "--resume", "auto")
    assert last(tmp_path)["global_step"] == 12
    assert same_weights(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_evaluation_in_which_a_rank_died_is_made_up_by_all(config, tmp_path, rank):
    """The first of two epochs; best.ckpt, early stopping and metrics are those of a run that was left alone."""
    options = ("--model.schedule.length", "2", "--run.early_stopping", "9")
    torchrun(config, 2, *options, "--run.folder", tmp_path / "whole")
    dies = {"class_path": "agent.DiesEvaluating", "init_args": {"rank": rank, "step": 3}}
    parts = (*options, "--run.folder", tmp_path / "parts")
    torchrun(config, 2, *parts, "--trainer.callbacks", json.dumps(dies), code=1)
    assert content(tmp_path / "parts")["evaluation_due"]
    torchrun(config, 2, *parts, "--resume", "auto")
    assert different(outcome(tmp_path / "parts"), outcome(tmp_path / "whole")) == []


@pytest.mark.slow
def test_two_ranks_go_on_as_one(config, tmp_path):
    """Another world size: the same images follow, and the run ends at the same step."""
    options = (*FOUR_EPOCHS, "--run.folder", tmp_path / "run")
    torchrun(config, 2, *options, *agent(rank=0, step=5, signal=15), code=1)
    before = last(tmp_path / "run")
    torchrun(config, 1, *options, "--resume", "auto")
    after = last(tmp_path / "run")
    assert (before["global_step"], after["global_step"]) == (10, 12)
    assert before["CocoDataModule"]["images"] == 2  # of the fourth epoch
    assert after["CocoDataModule"]["images"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_the_same_results_in_one_process_and_in_several(config, tmp_path, processes):
    torchrun(config, 1, "--run.folder", tmp_path / "trained")
    checkpoint = tmp_path / "trained" / "checkpoints" / "last.ckpt"
    test = ("--data.test", '{"images": "val", "annotations": "annotations/instances_val.json"}')
    found = []
    for ranks in (1, processes):
        folder = tmp_path / str(ranks)
        options = ("--ckpt_path", checkpoint, "--run.folder", folder, "--model.box_head.score_threshold", "0")
        torchrun(config, ranks, *options, *test, subcommand="test")
        (numbers,) = read_table(folder / "test.csv")
        precision = {name: value for name, value in numbers.items() if "/A" in name}
        found.append(([(folder / f"results_{kind}.json").read_bytes() for kind in ("bbox", "segm")], precision))
    assert not different(found[0], found[1])
    assert len(json.loads(found[0][0][0])) > 20


@pytest.mark.slow
def test_two_ranks_that_the_command_starts_leave_the_files_of_a_run_once(config, tmp_path):
    """Lightning starts the second rank; rank 0 alone writes, and nothing waits for the report."""
    folder = tmp_path / "run"
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--run.report", "true", "--run.pictures", "2"]
    command = [sys.executable, "-m", "detection", "train", "--config", config, "--epochs", "2", "--output", folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command), *options], capture_output=True, text=True, timeout=900, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("Training finished\n", "  Best:     epoch ", "  Files:    summary.md, report.html, curves.png, model"):
        assert done.stdout.count(line) == 1, line
    assert not re.findall("warning: .* was not written", done.stderr)
    assert [(row["epoch"], row["step"]) for row in evaluations(folder)] == [(1, 3), (2, 6)]
    trained = read_table(folder / "train.csv")
    assert [row["step"] for row in trained] == [1, 2, 3, 4, 5, 6]
    assert all(row["train/loss"] > 0 for row in trained)
    record = json.loads((folder / "run.json").read_text())
    assert (record["result"], record["last"]) == ("finished", {"epoch": 2, "step": 6})
    assert record["starts"][0]["devices"]["count"] == 2
    assert "| Device | 2 x " in (folder / "summary.md").read_text()
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert "5 images" in (folder / "report.html").read_text()  # those of both ranks
    assert set(load_model(folder).state_dict()) == set(load_model(folder / "checkpoints/best.ckpt").state_dict())
    assert {path.name for path in (folder / "images").iterdir()} >= {"train_batch.jpg", "val_epoch_002.jpg"}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_raises_and_all_end(config, tmp_path, rank):
    done = torchrun(config, 2, "--run.folder", tmp_path / "run", *agent(rank=rank, step=2), code=1)
    assert "broken on purpose" in done.output
    assert f"rank {rank}, step 2, images with id" in done.output


@pytest.mark.slow
def test_more_ranks_than_images(config, tmp_path):
    root = write_shapes(tmp_path / "two", train=2, val=2, size=(64, 96))
    torchrun(config, 3, "--data.root", root, "--data.batch_size", "3", "--run.folder", tmp_path / "run")
    torchrun(
        config, 1, "--data.root", root, "--ckpt_path", tmp_path / "run/checkpoints/last.ckpt",
        "--run.folder", tmp_path / "alone", subcommand="validate",
    )  # fmt: skip
    three, one = (evaluations(tmp_path / n)[-1] for n in ("run", "alone"))
    found, expected = ({n: each[n] for n in each if "/A" in n} for each in (three, one))
    assert found == pytest.approx(expected, rel=0, abs=0, nan_ok=True)  # there are no large objects


@pytest.mark.slow
def test_two_nodes(config, tmp_path):
    """Two agents that meet over loopback, one rank each, give what two ranks on one node give."""
    torchrun(config, 2, "--run.folder", tmp_path / "one_node")
    options = ("--trainer.num_nodes", "2", "--run.folder", tmp_path / "two_nodes")
    agents = [launch(config, 1, *options, nodes=2, port=29577) for _ in range(2)]
    assert [agent.wait() for agent in agents] == [0, 0], [agent.output for agent in agents]
    assert same_weights(tmp_path / "one_node", tmp_path / "two_nodes")

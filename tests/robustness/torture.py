"""Kill a training at random moments with SIGKILL, again and again, and see that nothing but the last steps is lost.

Run ``python tests/robustness/torture.py [KILLS [SEED [EPOCHS]]]``; 50, 0 and 150 unless told. The training saves itself
at every step, so that many of the kills hit a save. After each kill the checkpoint must load and its checksums must
hold, no other file may lie beside it when the next start is through, and the run goes on from it. In the end the
weights must equal, bit for bit, those of a run that was left alone.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from detection.checkpoint import read_checkpoint
from detection.cli import main as command_line
from detection.shapes import write_shapes

SETTINGS = [
    "--model.backbone.name", "resnet10", "--model.backbone.norm", "group", "--model.fpn.channels", "16",
    "--model.rpn.proposals_train", "40", "--model.rpn.samples", "64", "--model.box_head.hidden", "32",
    "--model.schedule.unit", "epochs", "--model.mask_head", "null",
    "--data.train", "{images: train, annotations: annotations/instances_train.json}",
    "--data.val", "{images: val, annotations: annotations/instances_val.json}",
    "--data.short_side", "64", "--data.long_side", "96", "--data.batch_size", "2", "--data.workers", "0",
    "--trainer.accelerator", "cpu", "--trainer.precision", "32-true",
    "--trainer.limit_val_batches", "0", "--trainer.num_sanity_val_steps", "0",
    "--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1",
    "--run.pictures", "0", "--run.save_minutes", "0",
]  # fmt: skip


def start(root: Path, folder: Path, epochs: int) -> int:
    """Begin or go on with the training in a child; its process id."""
    pid = os.fork()
    if pid:
        return pid
    with open(folder.parent / "log.txt", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    arguments = ["fit", "--data.root", str(root), "--run.folder", str(folder), "--resume", "auto", *SETTINGS]
    arguments += ["--model.schedule.length", str(epochs)]
    os._exit(command_line(arguments))


def finish(root: Path, folder: Path, epochs: int) -> dict[str, torch.Tensor]:
    """Let the training run to its end; its weights."""
    _, status = os.waitpid(start(root, folder, epochs), 0)
    assert os.waitstatus_to_exitcode(status) == 0, (folder.parent / "log.txt").read_text()[-2000:]
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]


def torture(
    root: Path, folder: Path, kills: int, seed: int, epochs: int, longest: float = 9.0
) -> list[tuple[int, int]]:
    """Kill so often; the steps that were saved before and after each start.

    Args:
        longest: seconds that a start gets at most.
    """
    chance = random.Random(seed)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    steps, before = [], 0
    for _ in range(kills):
        pid = start(root, folder, epochs)
        time.sleep(chance.uniform(0.5, longest))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        after = read_checkpoint(checkpoint)["global_step"] if checkpoint.is_file() else 0  # checks its checksums
        if after < before:
            left = sorted(path.name for path in checkpoint.parent.iterdir())
            log = (folder.parent / "log.txt").read_text()[-3000:]
            raise AssertionError(f"step {before} was saved, and then only {after}; {left}; the log ends:\n{log}")
        steps.append((before, after))
        before = after
    return steps


def main(arguments: Sequence[str] | None = None) -> None:
    """Torture, and print what happened."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    numbers = [int(value) for value in given]
    kills, seed, epochs = numbers + [50, 0, 150][len(numbers) :]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        root = write_shapes(work / "shapes", train=8, val=2, size=(64, 96))
        (work / "alone").mkdir()
        (work / "killed").mkdir()
        alone = finish(root, work / "alone" / "run", epochs)
        steps = torture(root, work / "killed" / "run", kills, seed, epochs)
        killed = finish(root, work / "killed" / "run", epochs)
        left = sorted(path.name for path in (work / "killed" / "run" / "checkpoints").iterdir())
    equal = all(torch.equal(alone[key], killed[key]) for key in alone)
    hit = sum(after > before for before, after in steps)
    print(f"{kills} kills, seed {seed}: {hit} of the starts came to save, the last one at step {steps[-1][1]} of "
          f"{4 * epochs}; files left: {left}; weights equal to those of a run left alone: {equal}")  # fmt: skip
    assert equal
    assert left == ["last.ckpt"], left


if __name__ == "__main__":
    main()

"""Kill a training with SIGKILL repeatedly, and check that its results equal those of an uninterrupted training.

Run ``python tests/robustness/torture.py [KILLS [SEED [EPOCHS]]]``; 20, 0 and 40 unless told. The training saves itself
at every step and evaluates after every epoch. Each start dies at one of :data:`POINTS`, in turn, or at a random moment;
all count from the first save of that start on. After each kill the checkpoints must load and their checksums must hold.
In the end metrics, the best and the last checkpoint must equal those of a run that was left alone, bit for bit.
"""

import io
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from detection.checkpoint import read_checkpoint
from detection.cli import main as command_line
from detection.engine.best_checkpoint import BestCheckpoint
from detection.engine.last_checkpoint import LastCheckpoint
from detection.engine.module import DetectionModule
from detection.shapes import write_shapes
from tests.outcomes import different, outcome, vary_ap

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
EVALUATED = ["--trainer.limit_val_batches", "1.0", "--run.early_stopping", "1000"]
BATCHES = 4
"""Of an epoch."""


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_write(nth: int) -> None:
    """When half of a checkpoint is in its file."""
    save = torch.save

    def half(content: Any, file: Any) -> None:
        whole = io.BytesIO()
        save(content, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        kill()

    at_call(torch, "save", nth, half)


def before_a_rename(nth: int) -> None:
    """When a checkpoint is whole, and does not have its name yet."""
    at_call(os, "replace", nth, lambda *_: kill(), lambda _, name: str(name).endswith(".ckpt"))


def after_a_rename(nth: int) -> None:
    replace = os.replace
    at_call(os, "replace", nth, lambda *names: (replace(*names), kill()), lambda _, name: str(name).endswith(".ckpt"))


def before_an_evaluation(nth: int) -> None:
    """When an epoch's last step is saved."""
    at_call(DetectionModule, "on_validation_epoch_start", 1 + nth % 2, lambda *_: kill())


def in_an_evaluation(nth: int) -> None:
    at_call(DetectionModule, "validation_step", 1 + nth, lambda *_, **__: kill())


def after_an_evaluation(nth: int) -> None:
    """When metrics are written, and no checkpoint."""
    at_call(BestCheckpoint, "on_validation_end", 1 + nth % 2, lambda *_: kill())


def between_the_checkpoints(nth: int) -> None:
    """When the best one is written, if this one is better, and not the last one."""
    at_call(LastCheckpoint, "on_validation_end", 1 + nth % 2, lambda *_: kill())


def told_to_stop_in_the_last_step(nth: int) -> None:
    """By SIGTERM: the run saves itself, and its evaluation has to wait."""
    step = DetectionModule.training_step

    def told(self: DetectionModule, batch: Any, number: int) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, number)

    at_call(DetectionModule, "training_step", 1 + nth % 2, told, lambda *given: given[-1] == BATCHES - 1)


POINTS: list[Callable[[int], None]] = [
    in_a_write,
    before_a_rename,
    before_an_evaluation,
    between_the_checkpoints,
    told_to_stop_in_the_last_step,
    after_an_evaluation,
    after_a_rename,
    in_an_evaluation,
]
"""Where a start dies, at the nth time that it comes there; None among the kills is a random moment."""


def at_call(
    owner: Any, name: str, nth: int, instead: Callable[..., Any], counts: Callable[..., bool] | None = None
) -> None:
    """Replace the ``nth`` call of a function, of those that count, once this process has saved for the first time."""
    function, seen = getattr(owner, name), [0]
    saves = name in ("save", "replace")

    def counted(*given: Any, **named: Any) -> Any:
        if saves or SAVED:
            seen[0] += counts is None or counts(*given)
        if seen[0] == nth and (counts is None or counts(*given)):
            return instead(*given, **named)
        return function(*given, **named)

    setattr(owner, name, counted)


SAVED: list[int] = []
"""The steps that this process has saved."""


def remember_saves() -> None:
    save = LastCheckpoint.save

    def noted(self: LastCheckpoint, trainer: Any) -> str:
        path = save(self, trainer)
        SAVED.append(trainer.global_step)
        return path

    LastCheckpoint.save = noted


def start(root: Path, folder: Path, epochs: int, prepare: Callable[[], None] = lambda: None) -> int:
    """Begin or continue the training in a child; its process id."""
    pid = os.fork()
    if pid:
        return pid
    with open(folder.parent / "log.txt", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    vary_ap(setattr)
    remember_saves()
    prepare()
    arguments = ["fit", "--data.root", str(root), "--run.folder", str(folder), "--resume", "auto", *SETTINGS]
    os._exit(command_line([*arguments, *EVALUATED, "--model.schedule.length", str(epochs)]))


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def finish(root: Path, folder: Path, epochs: int) -> dict[str, Any]:
    """Let the training run to its end; what it leaves."""
    code = ended(start(root, folder, epochs))
    assert code == 0, (folder.parent / "log.txt").read_text()[-2000:]
    return outcome(folder)


def at_a_random_moment(pid: int, checkpoint: Path, chance: random.Random) -> None:
    """Kill a start a moment after its first save."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.25))
    os.kill(pid, signal.SIGKILL)


def torture(root: Path, folder: Path, kills: int, seed: int, epochs: int) -> Counter[str]:
    """Kill so often; how often at each point, and how many saves and evaluations were interrupted."""
    chance = random.Random(seed)
    checkpoints, before, told = folder / "checkpoints", 0, Counter[str]()
    for number in range(kills):
        point = POINTS[number // 2 % len(POINTS)] if number % 2 == 0 else None
        nth = chance.randint(1, 2 * BATCHES)
        pid = start(root, folder, epochs, (lambda point=point, nth=nth: point(nth)) if point else lambda: None)
        if point is None:
            at_a_random_moment(pid, checkpoints / "last.ckpt", chance)
        code = ended(pid)
        log = (folder.parent / "log.txt").read_text()[-3000:]
        expected = 143 if point is told_to_stop_in_the_last_step else -signal.SIGKILL
        assert code == expected, f"kill {number} ({point}): exit code {code}; give it more epochs; the log ends:\n{log}"
        left = sorted(path.name for path in checkpoints.iterdir())
        found = [read_checkpoint(checkpoints / name) for name in left if name.endswith(".ckpt")]  # checks its checksums
        after = max(content["global_step"] for content in found)
        assert after >= before, f"step {before} was saved, and then only {after}; {left}; the log ends:\n{log}"
        before = after
        told[point.__name__ if point else "at_a_random_moment"] += 1
        told["saves interrupted"] += any(name.endswith(".partial") for name in left)
        told["evaluations due"] += any(content["evaluation_due"] for content in found)
    told["last step"] = before
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    """Torture, and print what happened."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    numbers = [int(value) for value in given]
    kills, seed, epochs = numbers + [20, 0, 40][len(numbers) :]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        root = write_shapes(work / "shapes", train=2 * BATCHES, val=2, size=(64, 96))
        (work / "alone").mkdir()
        (work / "killed").mkdir()
        alone = finish(root, work / "alone" / "run", epochs)
        told = torture(root, work / "killed" / "run", kills, seed, epochs)
        killed = finish(root, work / "killed" / "run", epochs)
        left = sorted(path.name for path in (work / "killed" / "run" / "checkpoints").iterdir())
    found = different(killed, alone)
    best = [line["step"] for line in alone["curve"] if line["val/AP"] == max(line["val/AP"] for line in alone["curve"])]
    print(f"{kills} kills, seed {seed}: {dict(told)} of {BATCHES * epochs}; files left: {left}; {len(alone['curve'])} "
          f"evaluations, the best at step {best[0]}; differences to a run left alone: {len(found)}")  # fmt: skip
    assert not found, found[:5]
    assert left == ["best.ckpt", "last.ckpt"], left
    assert told["saves interrupted"] >= min(2, kills // 2), "no kill came while a checkpoint was written"
    assert told["evaluations due"] or kills < 6, "no kill came before an evaluation"


if __name__ == "__main__":
    main()

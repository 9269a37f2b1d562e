"""Random damage to a real checkpoint must give a working detector, or a one-line error that names the file.

Run ``python tests/robustness/fuzz_checkpoints.py [FILES [SEED [RESUMED]]]``; 2,000 files, seed 0 and 20 resumed runs
unless told. A finding is printed with its seed and stops the run; ``1 SEED 0`` shows it again.
"""

import copy
import io
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import threading
import warnings
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml

from detection import load_model, predict
from detection.cli import main as rcnn
from detection.shapes import write_shapes
from tests.robustness.fuzz import places

LONGEST = 300
"""Characters of a line, without the file's path."""
SECONDS = 120
"""What takes longer than this hangs, even on a busy machine."""
TINY = {
    "model": {
        "backbone": {"name": "resnet10", "norm": "batch", "width": 8},
        "fpn": {"channels": 8},
        "rpn": {
            "anchors": {"sizes": [8, 16, 32, 64, 128]},
            **{"samples": 32, "pre_nms_train": 50, "pre_nms_test": 50, "proposals_train": 20, "proposals_test": 20},
        },
        "box_head": {"hidden": 16, "samples": 8, "detections": 5},
        "mask_head": {"convs": 1, "channels": 8},
        "schedule": {"unit": "epochs", "length": 1},
    },
    "data": {
        "train": {"images": "train", "annotations": "annotations/instances_train.json"},
        "val": {"images": "val", "annotations": "annotations/instances_val.json"},
        **{"short_side": 64, "long_side": 96, "batch_size": 2, "workers": 0},
    },
    "trainer": {"accelerator": "cpu", "precision": "32-true", "num_sanity_val_steps": 0, "enable_progress_bar": False},
    "run": {"pictures": 0},
}


def strange() -> tuple[Any, ...]:
    """Values that do not belong where they are put."""
    loop: list[Any] = []
    loop.append(loop)
    laughs: list[Any] = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    ordered = torch.nn.Linear(1, 1).state_dict()
    ordered.keys = 5  # type: ignore[method-assign, assignment]
    return (
        None, True, False, 0, -1, 1, 3, 2**31, 2**62, 10**300, 0.5, -2.0, float("nan"), float("inf"), 1e300,
        "", "x", "1", "../../etc/passwd", "os.system", "a.b.C", "\x1b[2J", "\u202e", "timm/hf-hub:a/b", b"bytes",
        [], {}, (), [[]], [None], [1, 2], ["a"], {"a": 1}, {1: 2}, loop, laughs, ordered,
        torch.zeros(()), torch.zeros(0), torch.zeros(3, 3), torch.tensor(float("nan")), torch.zeros(1).expand(10**9),
        torch.ones(2, dtype=torch.int64), torch.empty(4, device="meta"), torch.zeros(2, dtype=torch.complex64),
        torch.eye(3).to_sparse(), torch.Size([2]), torch.device("cpu"), torch.float16,
        {"class_path": "os.system", "init_args": {"command": "true"}}, {"_instantiator": "os.system"},
    )  # fmt: skip


def train(folder: Path) -> Path:
    """A real checkpoint of a run of one epoch, which could be resumed; its config lies beside the data."""
    data = write_shapes(folder / "data", train=4, val=2, size=(64, 96))
    config = {**TINY, "data": {"root": str(data), **TINY["data"]}}  # type: ignore[dict-item]
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    assert rcnn(["fit", "--config", str(folder / "tiny.yaml"), "--run.folder", str(folder / "run")]) == 0
    return folder / "run" / "checkpoints" / "last.ckpt"


def damaged(chance: random.Random, whole: bytes, content: dict[str, Any]) -> bytes:
    """A checkpoint with changed values, a changed archive, a changed pickle, or changed bytes."""
    way = chance.random()
    if way < 0.6:
        return _other_values(chance, content)
    if way < 0.75:
        return _other_archive(chance, whole)
    if way < 0.9:
        return _other_pickle(chance, whole)
    changed = bytearray(whole)
    for _ in range(chance.randint(1, 5)):
        place = chance.randrange(len(changed))
        changed[place] = chance.randrange(256)
    return bytes(changed[: chance.randint(0, len(changed))] if chance.random() < 0.3 else changed)


def _other_values(chance: random.Random, content: dict[str, Any]) -> bytes:
    """One to three values of the ``rcnn`` entry, the training state or the weights replaced, removed or moved."""
    whole, content = content, copy.deepcopy(content)
    for _ in range(chance.choice((1, 1, 2, 3))):
        top = chance.choice([*whole, "rcnn", "rcnn", "rcnn", "loops", "optimizer_states"])
        # Of the untouched one: a value that is put in may hold itself, or a billion places.
        path = chance.choice(places({top: whole[top]}))
        try:
            parent = reduce(getitem, path[:-1], cast(Any, content))
            parent[path[-1]]
        except (KeyError, IndexError, TypeError, AttributeError):  # changed before
            continue
        if not isinstance(parent, dict | list):
            continue
        if chance.random() < 0.8:
            parent[path[-1]] = chance.choice(strange())
        elif isinstance(parent, dict) and chance.random() < 0.5:
            parent["other" if chance.random() < 0.5 else 7] = parent.pop(path[-1])
        else:
            del parent[path[-1]]
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _other_archive(chance: random.Random, whole: bytes) -> bytes:
    """Compressed, doubled, encrypted, missing, renamed or foreign members; text before or behind the archive."""
    way = chance.randrange(9)
    source = zipfile.ZipFile(io.BytesIO(whole))
    members = [(member.filename, source.read(member)) for member in source.infolist()]
    hit = chance.randrange(len(members))
    name, data = members[hit]
    if way == 0:
        members.insert(hit, (name, data[::-1]))
    elif way == 1:
        del members[hit]
    elif way == 2:
        members[hit] = (name + "x", data)
    elif way == 3:
        members.append((f"{name.split('/')[0]}/constants.pkl", b"\x80\x02}."))
    elif way == 4:
        members[hit] = (name, data[: len(data) // 2])
    elif way == 5:
        members[hit] = (name, data + bytes(chance.randint(1, 10_000)))
    file = io.BytesIO()
    kind = chance.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]) if way == 6 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind) as target, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about doubled names
        if way == 7:
            target.comment = b"comment"
        for one, content in members:
            target.writestr(one, content)
    changed = bytearray(file.getvalue())
    if way == 8:  # the bit for encryption, in the directory
        place = changed.rindex(b"PK\x01\x02")
        changed[place + 8 : place + 10] = struct.pack("<H", 1)
    return chance.choice([b"", b"", b"junk"]) + bytes(changed)


def _other_pickle(chance: random.Random, whole: bytes) -> bytes:
    """A few bytes of the pickle changed, removed or added, in a sound archive."""
    source = zipfile.ZipFile(io.BytesIO(whole))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for member in source.infolist():
            data = bytearray(source.read(member))
            if member.filename.endswith("data.pkl"):
                for _ in range(chance.randint(1, 4)):
                    place = chance.randrange(len(data))
                    length = chance.randint(0, 3)
                    data[place : place + length] = chance.randbytes(chance.randint(0, 3))
            target.writestr(member.filename, bytes(data))
    return file.getvalue()


def check(path: Path, data: bytes) -> str:
    """``sound`` or ``refused``.

    Raises:
        AssertionError: an error that does not name the file, or has several lines or too many characters.
    """
    path.write_bytes(data)
    try:
        model = load_model(path)
    except ValueError as error:
        line(str(error), path)
        return "refused"
    found = predict(model, np.zeros((32, 48, 3), np.uint8), score_threshold=0.0, size=(32, 48))
    assert np.isfinite(found.boxes).all()
    assert np.isfinite(found.scores).all()
    return "sound"


def line(message: str, path: Path) -> None:
    """Hold a message against what a line must be."""
    assert str(path) in message, f"does not name the file: {message[:500]}"
    assert len(message.replace(str(path), "").splitlines()) == 1, f"several lines: {message[:500]}"
    assert len(message.replace(str(path), "")) <= LONGEST, f"{len(message)} characters: {message[:500]}"
    assert message.isprintable(), f"signs that a terminal follows: {message[:500]!r}"


def check_resumed(folder: Path, data: bytes) -> str:
    """As :func:`check`, of a training that resumes from the file for one more epoch."""
    run = folder / "resumed"
    path = run / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    told = io.StringIO()
    given = ["fit", "--config", str(folder / "tiny.yaml"), "--run.folder", str(run), "--model.schedule.length", "2"]
    with redirect_stdout(io.StringIO()), redirect_stderr(told):
        code = rcnn([*given, "--resume", str(path), "--trainer.limit_val_batches", "1"])
    if code == 0:
        return "sound"
    errors = [one for one in told.getvalue().splitlines() if one.startswith("error: ")]
    assert code == 2, f"exit code {code}: {told.getvalue()[-500:]}"
    assert len(errors) == 1, told.getvalue()[-500:]
    line(errors[0], path)
    return "refused"


def _end(seed: int) -> None:
    print(f"seed {seed}: no answer within {SECONDS} s", file=sys.stderr, flush=True)
    os._exit(1)


def fuzz(folder: Path, files: int, seed: int, resumed: int) -> dict[str, int]:
    """How many were refused and how many were sound; each has a seed of its own.

    Raises:
        AssertionError: a finding, with its seed.
    """
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        original = train(folder)
    whole = original.read_bytes()
    content = torch.load(original, weights_only=True)
    assert check(folder / "damaged.ckpt", whole) == "sound"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = {"sound": 0, "refused": 0, "resumed sound": 0, "resumed refused": 0}
    for own in range(seed, seed + files + resumed):
        chance = random.Random(own)
        signal.alarm(SECONDS + 20)  # ends the process: nothing else interrupts a library that holds Python's lock
        hanging = threading.Timer(SECONDS, _end, [own])
        hanging.start()
        try:
            if own < seed + files:
                counts[check(folder / "damaged.ckpt", damaged(chance, whole, content))] += 1
            else:
                counts["resumed " + check_resumed(folder, _other_values(chance, content))] += 1
        except BaseException as error:
            raise AssertionError(f"seed {own}: {type(error).__name__}: {error}") from error
        finally:
            hanging.cancel()
            signal.alarm(0)
    counts["MB above a training"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1000
    return counts


def main() -> None:
    """Fuzz, and print the counts and the peak memory."""
    given = [int(value) for value in sys.argv[1:4]]
    files, seed, resumed = given + [2000, 0, 20][len(given) :]
    with tempfile.TemporaryDirectory() as folder:
        counts = fuzz(Path(folder), files, seed, resumed)
    print(f"seed {seed}: {counts}")


if __name__ == "__main__":
    main()

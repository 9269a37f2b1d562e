"""Cases 52 to 66 of docs/reference/input-checks.md, which occur while a program runs, if no other file tests them."""

import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from detection.cli import main
from detection.coco.annotations import load_annotations
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.data.errors import DataError
from detection.data.transforms import Resize
from detection.engine.errors import user_message
from detection.engine.loading import batch_bytes, explain_worker, largest_canvas, loader_bytes, workers_that_fit
from detection.shapes import write_shapes

ROOT = Path(__file__).resolve().parents[2]


class Unlucky(CocoDataset):
    """Reading the third image goes wrong in a way of one's choice, in a worker."""

    way = "raise"

    def scene(self, index, *steps):
        if index == 2 and torch.utils.data.get_worker_info() is not None:
            if self.way == "raise":
                raise ValueError(f"{self.path(index)}: is broken; replace the file")
            if self.way == "hang":
                time.sleep(60)
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "crash": signal.SIGSEGV}[self.way])
        return super().scene(index, *steps)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("runtime"), train=6, val=2, size=(48, 64))


def read_all(shapes: Path, way: str) -> tuple[BaseException, CocoDataset]:
    """What the loader raises."""
    data = Unlucky(load_annotations(shapes / "annotations/instances_train.json"), shapes / "train")
    data.way = way
    loader = DataLoader(data, batch_size=1, num_workers=1, collate_fn=collate, timeout=2 if way == "hang" else 0)
    try:
        with pytest.raises((RuntimeError, DataError, ConnectionError, EOFError)) as error:
            list(loader)
        raised: BaseException = error.value
    except RuntimeError as signalled:  # while a broken pipe was on its way out
        raised = signalled
    if way in ("kill", "crash"):
        # A death is told by the broken pipe or by a signal, or by both, and then the signal comes when it likes.
        pids = {pid for pid, _ in data.reading_now().values()}
        with contextlib.suppress(RuntimeError):
            for worker in multiprocessing.active_children():
                if worker.pid in pids:
                    worker.join(10)
    return raised, data


def test_64_a_worker_that_raises_names_the_image(shapes):
    error, data = read_all(shapes, "raise")
    message, code = user_message(error)
    assert code == 2
    assert str(data.path(2)) in message
    assert len(message.splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("way", ["kill", "crash", pytest.param("hang", marks=pytest.mark.slow)])
def test_64_a_worker_that_dies_or_hangs_names_what_it_was_reading(shapes, way):
    error, data = read_all(shapes, way)
    place = explain_worker(error, [data])
    assert str(data.path(2)) in place
    error.add_note(place)
    message, code = user_message(error)
    assert code == 1
    assert str(data.path(2)) in message
    assert "try fewer data.workers" in message


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "Connection reset by peer")])
def test_64_a_connection_that_breaks_off_is_a_lost_worker(error):
    error.add_note("worker 0 (pid 7) was reading a.jpg")
    message, code = user_message(error)
    assert code == 1
    assert "a.jpg" in message
    assert str(error) in message


@pytest.mark.slow
def test_65_as_many_workers_as_the_shared_memory_holds(capsys):
    batch = batch_bytes(2, (800, 1344), 40, masks=True)
    images = 2 * 3 * 800 * 1344
    assert images < batch < 2 * images
    assert workers_that_fit(4, batch, free=loader_bytes(batch, 4)) == 4
    assert capsys.readouterr().err == ""
    assert workers_that_fit(4, batch, free=loader_bytes(batch, 4) - 1) == 3
    assert "3 instead; give a container more with --shm-size" in capsys.readouterr().err
    assert workers_that_fit(4, batch, free=0) == 0
    assert largest_canvas(np.array([[480, 640], [640, 480]]), Resize(800, 1333)) == (1088, 1088)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits open files")
def test_65_few_open_files_are_allowed_more(shapes):
    script = (
        "import resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "from detection.engine.loading import allow_open_files\n"
        "allow_open_files()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(4096, hard))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(
            *(["--data.root", "nowhere"], ["no annotations", "nowhere", "set data.root"]), marks=pytest.mark.slow
        ),
        pytest.param(["--data.rot", "x"], ["data.rot", "data.root"], marks=pytest.mark.slow),
        (["--model.backbone.name", "resnt50"], ["resnt50", "resnet50"]),
        (["--config", "nosuch"], ["nosuch"]),
        (["--ckpt_path", "none.ckpt"], ["none.ckpt"]),
    ],
)
def test_61_an_error_says_what_where_and_what_to_do_and_debug_shows_the_place(capsys, monkeypatch, options, words):
    # Loggers of other tests hold streams that are closed by now.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    arguments = ["fit", "--config", "demo", *options]
    assert main(arguments) == 2
    told_to_user = capsys.readouterr().err
    assert all(word in told_to_user for word in words), told_to_user
    assert "Traceback" not in told_to_user
    assert len(told_to_user.strip().splitlines()) <= 4
    with pytest.raises(Exception, match=words[0]):
        main([*arguments, "--debug"])

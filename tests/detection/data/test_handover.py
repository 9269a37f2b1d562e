"""Batches that a worker cannot hand over."""

import threading
import time

import pytest
from torch.utils.data import DataLoader

from detection.data.dataset import begin_worker


class Full:
    """Finds no room in shared memory as it is put there, which the thread of a worker does."""

    def __reduce__(self):
        raise RuntimeError("unable to write to file </torch_1>: No space left on device (28)")


class Fourth:
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> object:
        return Full() if index == 3 else index


def test_a_batch_without_room_is_an_error_at_once():
    """Without the hook the loader would wait until its time is up."""
    loader = DataLoader(Fourth(), batch_size=None, num_workers=1, timeout=100, worker_init_fn=begin_worker)
    found, start = [], time.monotonic()
    with pytest.raises(RuntimeError, match="No space left on device"):
        found.extend(iter(loader))
    assert found == [0, 1, 2]  # the batches before it
    assert time.monotonic() - start < 60


def without_threads(number: int) -> None:
    begin_worker(number)

    def fail(self) -> None:
        raise RuntimeError("can't start new thread")

    threading.Thread.start = fail


@pytest.mark.slow
def test_a_worker_without_threads_says_so(capfd):
    loader = DataLoader(range(8), batch_size=None, num_workers=1, timeout=100, worker_init_fn=without_threads)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        next(iter(loader))
    assert "Traceback" not in capfd.readouterr().err

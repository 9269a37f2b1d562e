"""Items of many threads share batches; none is lost, and an error or a cancelled item affects no other."""

import threading
import time
from concurrent.futures import CancelledError, wait

import pytest

from detection.serve.batcher import Batcher, Full, Queueing


class Held:
    """A ``run`` that waits for permission, and remembers the batches."""

    def __init__(self):
        self.batches, self.go, self.entered = [], threading.Event(), threading.Event()

    def __call__(self, batch):
        self.batches.append(list(batch))
        self.entered.set()
        assert self.go.wait(10)
        return [10 * item for item in batch]


def until(condition):
    """Wait: a future wakes its reader a moment before it frees its place."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def held():
    return Held()


def test_every_item_gets_its_own_answer_and_batches_have_a_size():
    sizes = []
    with Batcher(
        int,
        lambda batch: [item * item for item in batch],
        str,
        Queueing(most=100, batch=4),
        lambda number, _: sizes.append(number),
    ) as batcher:
        answers = [batcher.submit(str(k)) for k in range(100)]
        assert [answer.result(10) for answer in answers] == [str(k * k) for k in range(100)]
    assert sum(sizes) == 100
    assert 1 < max(sizes) <= 4


def test_items_that_come_while_a_batch_runs_share_the_next_one(held):
    with Batcher(int, held, int, Queueing(batch=3, workers=1)) as batcher:
        first = batcher.submit(1)
        assert held.entered.wait(10)
        others = [batcher.submit(k) for k in (2, 3, 4)]
        held.go.set()
        assert [one.result(10) for one in (first, *others)] == [10, 20, 30, 40]
    assert held.batches[0] == [1]
    assert [item for batch in held.batches[1:] for item in batch] == [2, 3, 4]
    assert len(held.batches) <= 3


def test_a_single_item_waits_no_longer_than_the_limit():
    with Batcher(int, list, int, Queueing(batch=64, wait=0.05)) as batcher:
        begin = time.monotonic()
        assert batcher.submit(7).result(10) == 7
        assert 0.04 < time.monotonic() - begin < 5


def test_a_full_queue_takes_nothing_more_until_an_item_is_done(held):
    with Batcher(int, held, int, Queueing(most=3, batch=1)) as batcher:
        answers = [batcher.submit(k) for k in range(3)]
        assert not batcher.has_room()
        with pytest.raises(Full):
            batcher.submit(4)
        assert len(batcher) == 3
        held.go.set()
        wait(answers, 10)
        until(batcher.has_room)
        assert batcher.submit(5).result(10) == 50


@pytest.mark.parametrize("step", ["prepare", "run", "finish"])
def test_an_error_reaches_its_item_alone(step):
    def failing(name):
        def act(item):
            if name == step and item == 3:
                raise ValueError(f"three in {name}")
            return item

        return act

    one = failing("run")
    with Batcher(failing("prepare"), lambda batch: [one(x) for x in batch], failing("finish"), Queueing()) as batcher:
        answers = [batcher.submit(k) for k in range(6)]
        for k, answer in enumerate(answers):
            if k == 3:
                with pytest.raises(ValueError, match=f"three in {step}"):
                    answer.result(10)
            else:
                assert answer.result(10) == k
        until(lambda: len(batcher) == 0)


def test_a_run_that_forgets_an_item_is_an_error_and_the_thread_lives():
    with Batcher(int, lambda batch: [] if 3 in batch else batch, int, Queueing()) as batcher:
        with pytest.raises(ValueError, match="shorter"):
            batcher.submit(3).result(10)
        assert batcher.submit(4).result(10) == 4
        assert batcher.is_alive()
    assert not batcher.is_alive()


def test_a_cancelled_item_never_runs_and_frees_its_place(held):
    with Batcher(int, held, int, Queueing(most=2, batch=1)) as batcher:
        first, second = batcher.submit(1), batcher.submit(2)
        assert held.entered.wait(10)
        (cancelled,) = [one for one in (first, second) if one.cancel()]
        assert batcher.has_room()
        held.go.set()
        third = batcher.submit(3)
        assert third.result(10) == 30
        with pytest.raises(CancelledError):
            cancelled.result(1)
    ran = [item for batch in held.batches for item in batch]
    assert len(ran) == 2
    assert 3 in ran


def test_closing_finishes_what_was_accepted_and_takes_nothing_more(held):
    batcher = Batcher(int, held, int, Queueing(batch=2))
    answers = [batcher.submit(k) for k in range(5)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    until(lambda: not batcher.has_room())
    with pytest.raises(Full):
        batcher.submit(9)
    held.go.set()
    closing.join(10)
    assert not closing.is_alive()
    assert [one.result(0) for one in answers] == [0, 10, 20, 30, 40]


def test_closing_ends_although_cancelled_items_are_still_prepared():
    started, go = threading.Semaphore(0), threading.Event()

    def slow(item):
        started.release()
        assert go.wait(10)
        return item

    batcher = Batcher(slow, list, int, Queueing(most=8, batch=1, workers=4))
    answers = [batcher.submit(k) for k in range(4)]
    for _ in answers:
        assert started.acquire(timeout=10)
    assert all(one.cancel() for one in answers)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    go.set()
    closing.join(10)
    assert not closing.is_alive()


def test_the_pace_estimates_when_all_will_be_done(held):
    with Batcher(int, held, int, Queueing(batch=1)) as batcher:
        assert batcher.seconds() == 0
        first = batcher.submit(1)
        assert held.entered.wait(10)
        time.sleep(0.05)
        held.go.set()
        first.result(10)
        held.go.clear()
        later = [batcher.submit(k) for k in range(4)]
        assert 0.2 <= batcher.seconds() < 10
        held.go.set()
        wait(later, 10)

"""Objects that live in another process."""

import os

import pytest

from tools.benchmark.apart import Apart


class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    def next(self) -> tuple[int, int]:
        self.count += 1
        return self.count, os.getpid()


def test_an_object_stays_in_its_process() -> None:
    with Apart(Counter, 1) as one, Apart(Counter, 5) as other:
        (first, here), (second, there) = one("next"), one("next")
        assert (first, second, other("next")[0]) == (2, 3, 6)
        assert here == there != os.getpid()


def test_an_error_in_the_other_process_arrives() -> None:
    with Apart(int, "no number") as apart, pytest.raises(ValueError, match="no number"):
        apart("bit_length")
    with Apart(int, "3") as apart, pytest.raises(AttributeError, match="no_method"):
        apart("no_method")


def test_a_process_gets_its_own_environment() -> None:
    with Apart(os.getenv, "SAID", environment={"SAID": "there"}) as apart:
        assert apart("upper") == "THERE"
    assert "SAID" not in os.environ

"""The garbage collector comes back; what a process holds."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from detection.memory import no_garbage_collection, resident

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with no_garbage_collection():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()


def test_the_most_that_was_held_is_of_this_program_alone() -> None:
    large = b"1" * 300_000_000
    code = "from detection.memory import most_resident as most; print(most()); x = b'1' * 200_000_000; print(most())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    before, after = map(int, done.stdout.split())
    assert resident() >= len(large)
    assert before < 100_000_000
    assert 190_000_000 < after - before < 220_000_000

"""The garbage collector comes back; what a process holds, and keeps."""

import gc
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from detection.memory import LARGE, SMALL, keep_freed_memory, no_garbage_collection, resident

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


FAULTS = """
import resource, sys, torch
from detection.memory import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else None)
for i in range(24):
    if i == 16:  # the heap is then large enough
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the switch is glibc's")
def test_freed_memory_is_kept_unless_the_user_has_settings_of_his_own() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def faults(choice: str, **settings: str) -> tuple[str, int]:
        command = [sys.executable, "-c", FAULTS, choice]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment | settings, cwd=ROOT)
        said, number = done.stdout.split()
        return said, int(number)

    (said, kept), (_, given_back), (left, _) = faults("keep"), faults("leave"), faults("keep", MALLOC_ARENA_MAX="2")
    assert (said, left) == ("True", "False")
    assert kept < given_back / 4


@pytest.mark.parametrize("largest", [SMALL - 1, LARGE + 1])
def test_what_small_and_very_large_tensors_free_is_left_to_glibc(largest: float) -> None:
    assert not keep_freed_memory(largest)

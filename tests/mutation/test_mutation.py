"""The runner of mutants: what it changes, and that it tells killed from surviving ones; much more when slow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.mutants import Mutant, mutants
from tests.mutation.run import ACCEPTED, TESTS, Reach, accepted, python_files, sample

ROOT = Path(__file__).resolve().parents[2]

SOURCE = '''
"""A docstring with 1 number."""
from typing import TYPE_CHECKING

LIMIT: int = 3
if TYPE_CHECKING:
    import os


class Box:
    """Another."""

    @staticmethod
    def side(low, high=2.5, strict=True):
        if low > high and not strict:
            raise ValueError(f"{low + 1} is above {high}")
        total = high - low
        total += 1
        return [x % 2 for x in range(total) if x is not None] if total else -total
'''

CHANGES = [
    "module: 3 -> (4)",
    "module: 3 -> (2)",
    "Box.side: 2.5 -> (3.5)",
    "Box.side: 2.5 -> (1.5)",
    "Box.side: True -> (False)",
    "Box.side: low > high and not strict -> not (low > high and (not strict))",
    "Box.side: low > high and not strict -> (low > high or not strict)",
    "Box.side: low > high -> (low >= high)",
    "Box.side: not strict -> (strict)",
    'Box.side: raise ValueError(f"{low + 1} is above {high}") -> pass',
    "Box.side: high - low -> (high + low)",
    "Box.side: total += 1 -> pass",
    "Box.side: 1 -> (2)",
    "Box.side: 1 -> (0)",
    "Box.side: [x % 2 for x in range(total) if x is not None] if total else -total"
    " -> ([x % 2 for x in range(total) if x is not None] if not total else -total)",
    "Box.side: x % 2 -> (x * 2)",
    "Box.side: 2 -> (3)",
    "Box.side: 2 -> (1)",
    "Box.side: x is not None -> (x is None)",
    "Box.side: -total -> (total)",
]


def test_each_change_is_made_once_and_none_in_words_for_people():
    assert sorted(map(str, mutants(SOURCE))) == sorted(CHANGES)


def test_a_mutant_changes_its_place_alone():
    for mutant in mutants(SOURCE):
        changed = mutant.applied(SOURCE)
        ast.parse(changed)
        assert len(changed.splitlines()) == len(SOURCE.splitlines())
        differing = [
            k for k, (a, b) in enumerate(zip(SOURCE.splitlines(), changed.splitlines(), strict=True), 1) if a != b
        ]
        assert differing
        assert all(mutant.lines[0] <= k <= mutant.lines[1] for k in differing), mutant


def test_strict_of_zip_alone_stays():
    changes = [str(one) for one in mutants("def f(x):\n    return zip(x, x, strict=True), read(x, strict=True)\n")]
    assert changes == ["f: True -> (False)"]


def test_equal_changes_in_one_place_have_numbers():
    twice = [str(one) for one in mutants("def f(x):\n    return x < 1 or x < 1\n") if one.before == "x < 1"]
    assert twice == ["f: x < 1 -> (x <= 1)", "f: x < 1 -> (x <= 1) (number 2)"]


def test_letters_outside_of_ascii_before_a_change_count_as_bytes():
    (first, *_) = [one for one in mutants("def f():\n    return 'ä', 1\n") if one.before == "1"]
    assert first.applied("def f():\n    return 'ä', 1\n") == "def f():\n    return 'ä', (2)\n"


def test_tests_that_reach_the_lines_come_first_and_by_their_time():
    lines = {"a": {"x.py": {1, 2}}, "b": {"x.py": {2}}, "c": {"y.py": {2}}, "d": {"x.py": {9}}}
    known = Reach({"a": 3.0, "b": 1.0, "c": 0.1, "d": 0.5}, lines)
    assert known.tests_of("x.py", (2, 3)) == ["b", "a"]
    assert known.tests_of("x.py", (5, 5)) == ["d", "b", "a"]  # run at import, if at all
    assert known.tests_of("z.py", (1, 1)) == ["c", "d", "b", "a"]  # a file that has only constants
    lines = {"t.py::a": {"x.py": {1}}, "t.py::b": {}, "u.py::c": {}}
    known = Reach(dict.fromkeys(lines, 1.0), lines)
    assert known.tests_of("x.py", (5, 5)) == ["t.py::a", "t.py::b"]  # b may see a default of a dataclass


def test_a_sample_is_the_same_for_the_same_seed():
    assert sample(5, 3, ["detection/ops"]) == sample(5, 3, ["detection/ops"])
    assert sample(5, 3, ["detection/ops"]) != sample(5, 4, ["detection/ops"])


def test_every_accepted_survivor_is_a_mutant_of_today_with_a_reason():
    paths = {mutant.partition(":")[0] for mutant in accepted()}
    assert paths <= {str(path) for path in python_files([*TESTS])}
    known = {f"{path}: {one}" for path in paths for one in mutants((ROOT / path).read_text("utf-8"))}
    for mutant, why in accepted().items():
        assert mutant in known, f"{ACCEPTED.name}: {mutant}"
        assert len(why) > 10, mutant


PROGRAM = """
import os
os.chdir({root!r})
from tests.mutation import run
from tests.mutation.mutants import mutants
run.warm_up()
path = "detection/ops/boxes.py"
known = run.reach(["detection/ops"])
every = mutants(open(path).read())
picked = [one for one in every if one.place in ("area", "intersection")][::3]
outcomes = [run.judge(path, one, known) for one in picked]
unreached = run.judge(path, every[0], run.Reach({{}}, {{}}))
print(sum(one.killed for one in outcomes), len(outcomes), unreached.killed)
"""


@pytest.mark.slow
def test_mutants_of_the_boxes_are_killed():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT))], capture_output=True, text=True, cwd=ROOT, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-2000:]
    killed, all_of_them, unreached = done.stdout.split()[-3:]
    assert int(all_of_them) > 5
    assert int(killed) >= 0.9 * int(all_of_them)
    assert unreached == "False"


@pytest.mark.slow
def test_nine_of_ten_mutants_of_a_sample_are_killed():
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutation.run", "30", "0"], capture_output=True, text=True, cwd=ROOT, timeout=3600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    survivors = [line for line in lines if line.startswith("survivor: ") and line.endswith("no reason is known")]
    assert len(survivors) <= 3, "\n".join(survivors)


def test_a_mutant_is_shown_with_its_place():
    assert str(Mutant("f", "1", "(2)", (1, 1), (0, 1), 1)) == "f: 1 -> (2) (number 2)"

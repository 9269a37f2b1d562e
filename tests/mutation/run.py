"""A mutation score: how many small faults in the source make a test fail.

``python -m tests.mutation.run [NUMBER [SEED [PATH ...]]]``: a sample of 150 mutants, seed 0, of the operations, the
evaluation, the reader of COCO, the data, and checkpoints, unless told. It lists the survivors; ``accepted.txt`` says of
some why no test can, or should, kill them.

Each mutant runs in a process of its own that has the libraries already and takes one module from the changed source. It
runs the quick tests that reach the changed lines, the quickest first, and ends with the first failure. A first run of
all quick tests of these modules learns which test reaches which lines.
"""

import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from tests.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
TESTS = {
    "detection/ops": ["tests/detection/ops"],
    "detection/evaluation": ["tests/detection/evaluation"],
    "detection/coco": ["tests/detection/coco", "tests/robustness/test_annotations.py"],
    "detection/data": ["tests/detection/data", "tests/robustness/test_images.py"],
    "detection/checkpoint.py": ["tests/detection/test_checkpoint.py", "tests/detection/test_old_checkpoints.py"],
    "detection/checkpoint_files.py": ["tests/detection/test_checkpoint.py"],
}
"""Tests of each target, as folders or files."""
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "-W", "ignore")
FIRST = 20.0
"""Seconds of tests, as they took untouched, that a mutant meets at first; the others only if it survives these."""
ACCEPTED = Path(__file__).with_name("accepted.txt")


@dataclass(frozen=True)
class Reach:
    """Which tests there are, how long each took, and which lines it reached."""

    seconds: dict[str, float]
    lines: dict[str, dict[str, set[int]]]
    """By test and file."""

    def tests_of(self, path: str, lines: tuple[int, int]) -> list[str]:
        """Tests that reach some of the lines, the quickest first.

        Lines that run at import: all tests of the test files of which a test reaches the source file. A file that has
        only constants runs at import alone: then all tests.
        """
        span = set(range(lines[0], lines[1] + 1))
        found = [test for test, files in self.lines.items() if span & files.get(path, set())]
        places = {_file_of(test) for test, files in self.lines.items() if path in files}
        found = found or [test for test in self.lines if _file_of(test) in places] or [*self.lines]
        return sorted(found, key=lambda test: self.seconds[test])


def _file_of(test: str) -> str:
    return test.partition("::")[0]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    path: str
    mutant: Mutant
    killed: bool
    how: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.path}:{self.mutant.lines[0]}: {self.mutant}"


class _Recorder:
    """A plugin of pytest that notes lines of some files, by test."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._names = {str(ROOT / path): path for path in paths}
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[str, list[int]]] = {}
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        seen: dict[str, set[int]] = defaultdict(set)
        names = self._names

        def local(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                seen[names[frame.f_code.co_filename]].add(frame.f_lineno)
            return local

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            return local if frame.f_code.co_filename in names else None

        begin = time.perf_counter()
        threading.settrace(trace)
        sys.settrace(trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            self.seconds[item.nodeid] = time.perf_counter() - begin
            self.lines[item.nodeid] = {path: sorted(numbers) for path, numbers in seen.items()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def python_files(targets: Sequence[str]) -> list[str]:
    """The files of the targets, relative to the root."""
    found = []
    for target in targets:
        place = ROOT / target
        paths = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        found += [str(path.relative_to(ROOT)) for path in paths]
    return found


def tests_of(targets: Sequence[str]) -> list[str]:
    """Folders and files with the tests of some targets."""
    return list(dict.fromkeys(test for key, tests in TESTS.items() for target in targets if target.startswith(key)
                              for test in tests))  # fmt: skip


def reach(targets: Sequence[str]) -> Reach:
    """Run the tests of the targets once, and note what each reaches; kept for the same sources and tests.

    Raises:
        RuntimeError: tests fail without any mutant.
    """
    paths, tests = python_files(targets), tests_of(targets)
    content = hashlib.sha256()
    for file in sorted([*paths, *(p for t in tests for p in python_files([t]))]):
        content.update(file.encode() + (ROOT / file).read_bytes())
    kept = Path(tempfile.gettempdir()) / f"rcnn_mutation_{os.getuid()}_{content.hexdigest()[:16]}.json"
    if not kept.is_file():
        code = _in_child(lambda: _record(paths, tests, kept), limit=3600, quiet=False)
        if code != 0 or not kept.is_file():
            raise RuntimeError(f"the tests fail without any mutant (exit code {code})")
    told = json.loads(kept.read_text())
    lines = {test: {path: set(numbers) for path, numbers in files.items()} for test, files in told["lines"].items()}
    return Reach(told["seconds"], lines)


def _record(paths: Sequence[str], tests: Sequence[str], kept: Path) -> int:
    recorder = _Recorder(paths)
    code = pytest.main([*OPTIONS[1:], *tests], plugins=[recorder])
    if recorder.failed:
        print("failed:", *recorder.failed, sep="\n  ", file=sys.stderr)
        return 1
    part = kept.with_suffix(".part")
    part.write_text(json.dumps({"seconds": recorder.seconds, "lines": recorder.lines}))
    part.replace(kept)
    return int(code)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module, with a source of our own."""

    def __init__(self, path: str, source: str) -> None:
        self._path = ROOT / path
        parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
        self._name, self._source = ".".join(parts), source

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        loader = _Loader(fullname, str(self._path), self._source)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec")


def _in_child(work: Callable[[], int], limit: float, quiet: bool = True) -> int | None:
    """The exit code of a forked process that does the work; None if it took too long. Its children end with it."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            if quiet:
                resource.setrlimit(resource.RLIMIT_AS, (32 << 30, 32 << 30))
                null = os.open(os.devnull, os.O_RDWR)
                for number in (0, 1, 2):
                    os.dup2(null, number)
            code = work()
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _kill_group(child)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            _kill_group(child)
            os.waitpid(child, 0)
            return None
        time.sleep(0.02)


def _kill_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def judge(path: str, mutant: Mutant, known: Reach) -> Outcome:
    """Run the tests that reach a mutant, until one fails."""
    begin = time.monotonic()
    source = mutant.applied((ROOT / path).read_text(encoding="utf-8"))
    try:
        compile(source, path, "exec")
    except SyntaxError:
        return Outcome(path, mutant, True, "no Python", 0.0)
    tests = known.tests_of(path, mutant.lines)
    if not tests:
        return Outcome(path, mutant, False, "no test reaches it", 0.0)
    first: list[str] = []
    while tests and (not first or sum(known.seconds[test] for test in (*first, tests[0])) < FIRST):
        first.append(tests.pop(0))
    for some in (first, tests):
        if some:
            limit = 20 + 5 * sum(known.seconds[test] for test in some)
            code = _in_child(lambda some=some: _tested(path, source, some), limit)  # type: ignore[misc]
            if code != 0:
                how = "took too long" if code is None else f"{len(some)} tests, exit code {code}"
                return Outcome(path, mutant, True, how, time.monotonic() - begin)
    return Outcome(path, mutant, False, f"{len(first) + len(tests)} tests pass", time.monotonic() - begin)


def _tested(path: str, source: str, tests: Sequence[str]) -> int:
    sys.meta_path.insert(0, _Finder(path, source))
    return int(pytest.main([*OPTIONS, *tests]))


def warm_up() -> None:
    """Import the libraries that tests need, and nothing of the project, once for all children."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import albumentations
    import cv2
    import hypothesis
    import lightning
    import pycocotools.mask
    import torch
    import torchvision

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    hypothesis.settings.register_profile("mutation", derandomize=True, database=None, deadline=None)
    hypothesis.settings.load_profile("mutation")
    assert all((albumentations, lightning, pycocotools.mask, torchvision))
    own = [name for name in sys.modules if name.split(".")[0] in ("detection", "backbones")]
    assert not own, own


def sample(number: int, seed: int, targets: Sequence[str]) -> list[tuple[str, Mutant]]:
    """Mutants drawn from all of some targets, each equally likely."""
    every = [(path, one) for path in python_files(targets) for one in mutants((ROOT / path).read_text("utf-8"))]
    return random.Random(seed).sample(every, min(number, len(every)))


def accepted() -> dict[str, str]:
    """Reasons by mutant, as :class:`Outcome` shows it without its line."""
    found = {}
    for line in ACCEPTED.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            mutant, _, why = line.partition(" # ")
            found[mutant.strip()] = why.strip()
    return found


def run(number: int, seed: int, targets: Sequence[str], told: Callable[[str], None] = print) -> list[Outcome]:
    """Judge a sample; prints a line for each mutant, and the score."""
    os.chdir(ROOT)
    warm_up()
    known = reach(targets)
    outcomes = []
    for k, (path, mutant) in enumerate(sample(number, seed, targets), start=1):
        one = judge(path, mutant, known)
        outcomes.append(one)
        told(f"{k:4d} {'killed  ' if one.killed else 'SURVIVED'} {one.seconds:5.1f} s  {one} ({one.how})")
    reasons, killed = accepted(), sum(one.killed for one in outcomes)
    told(f"score: {killed} of {len(outcomes)} killed, {killed / max(len(outcomes), 1):.1%} (seed {seed})")
    for one in outcomes:
        if not one.killed:
            told(f"survivor: {one}: {reasons.get(f'{one.path}: {one.mutant}', 'no reason is known')}")
    return outcomes


def main() -> None:
    """Read the command line."""
    number, seed = ([int(value) for value in sys.argv[1:3]] + [150, 0][len(sys.argv[1:3]) :])[:2]
    begin = time.monotonic()
    run(number, seed, sys.argv[3:] or [*TESTS], told=lambda line: print(line, flush=True))
    print(f"{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()

"""The training path of Mask R-CNN stays short, and plain: measured by running a step and by reading the source.

``RCNN_FAST=0 python tests/test_design.py`` prints the figures.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # when it runs as a program

from tests.support import detectors  # noqa: E402
from tests.test_floors import MODULES, imports  # noqa: E402

QUESTIONS = r"is_plain\(|usable\(|pays\(|should_use\(|is_compiling\(|\.device\.type|is_cuda|environ|get_cpu_capability"
OWN_VARIABLE = r"\bRCNN_[A-Z]+\b"

MOST = {
    "files": 16,
    "lines": 2000,
    "questions": 0,
    "autograd functions in models": 0,
    "arguments of a model's constructor": 10,
    "environment variables of our own": 1,
    "longest chain of imports": 11,
}
"""The limits."""

OPTIONAL = {
    *((one, "backbones.timm_adapter") for one in ("backbones", "backbones.classifiers")),  # timm need not be installed
    ("backbones.fast.winograd", "backbones.fast.winograd.native"),  # there need not be a compiler
    ("backbones.fast.winograd", "backbones.fast.winograd.products"),  # what is taken where there is none
    # Methods of a detector that users call; a detector works without them.
    *((("detection.models.usable", one)) for one in ("detection.inference", "detection.scoring")),
}
"""Imports inside functions that no chain counts; all others count wherever they stand."""


@cache
def path_files() -> frozenset[Path]:
    """Files of which a function runs in a training step of a plain Mask R-CNN, from the losses to the gradients."""
    model, batch = detectors.make_tiny("frozen"), detectors.make_batch([[([10.0, 10, 60, 60], 1, False)], []])
    found = {ROOT / "detection/structures.py"}  # types without functions

    def profile(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES:
            found.add(path)

    sys.setprofile(profile)
    try:
        sum(model.train().losses(batch).values()).backward()
    finally:
        sys.setprofile(None)
    return frozenset(found)


PACKAGES = ("detection", "backbones")


def plain_files() -> list[Path]:
    folders = ("backbones", "detection/models", "detection/ops")
    return [p for folder in folders for p in (ROOT / folder).rglob("*.py") if "fast" not in p.parts]


def constructors(paths: list[Path]) -> Iterator[tuple[int, str]]:
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                count = len(node.args.args) + len(node.args.kwonlyargs) - 1  # without self
                yield count, f"{path.relative_to(ROOT)}:{node.lineno}"


@cache
def chain() -> list[str]:
    """The longest chain of modules of which each imports the next one; those in a circle count as one."""
    every = {name: path for name, path in MODULES.items() if name.split(".")[0] in PACKAGES}
    texts = {name: path.read_text(encoding="utf-8") for name, path in every.items()}
    imported = {name: loaded(name, text) & every.keys() - {name} for name, text in texts.items()}
    below = {name: reachable(name, imported) for name in every}

    @cache
    def longest(name: str) -> list[str]:
        circle = {one for one in below[name] if name in below[one]} | {name}
        nexts = {one for member in circle for one in imported[member]} - circle
        return [" = ".join(sorted(circle)), *max((longest(one) for one in sorted(nexts)), key=len, default=[])]

    return max(map(longest, sorted(every)), key=len)


def loaded(name: str, source: str) -> set[str]:
    """Modules that a module imports when it runs, but for those that need not be there."""
    if "TYPE_CHECKING" in source:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = [ast.Pass()]
        source = ast.unparse(tree)
    return {one for one in imports(source, set(MODULES)) if (name, one) not in OPTIONAL}


def reachable(start: str, imported: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = imported[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def figures() -> dict[str, int]:
    texts = [path.read_text(encoding="utf-8") for path in plain_files()]
    models = [p.read_text(encoding="utf-8") for p in (ROOT / "detection/models").rglob("*.py")]
    everything = [p.read_text(encoding="utf-8") for folder in PACKAGES for p in (ROOT / folder).rglob("*.py")]
    return {
        "files": len(path_files()),
        "lines": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in path_files()),
        "questions": sum(len(re.findall(QUESTIONS, text)) for text in texts),
        "autograd functions in models": sum(text.count("autograd.Function") for text in models),
        "arguments of a model's constructor": max(constructors(plain_files()))[0],
        "environment variables of our own": len(
            {name for text in everything for name in re.findall(OWN_VARIABLE, text)}
        ),
        "longest chain of imports": len(chain()),
    }


@pytest.fixture(scope="module")
def printed() -> str:
    """What this file prints as a program: without the faster kernels that other tests may have registered."""
    environment = os.environ | {"RCNN_FAST": "0"}
    command = [sys.executable, "-W", "ignore", __file__]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.parametrize("what", MOST)
def test_the_design_keeps_its_limits(printed, what):
    found = re.search(rf"^ *(\d+)  {re.escape(what)} ", printed, flags=re.MULTILINE)
    assert found is not None
    assert int(found[1]) <= MOST[what], printed


def names_in(node: ast.AST) -> set[str]:
    return imports(ast.unparse(node), set(MODULES))


def test_an_import_that_no_chain_counts_stands_in_a_function():
    for module, optional in OPTIONAL:
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        types = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
        tree.body = [node for node in tree.body if node not in (*functions, *types)]
        outside = {one for node in tree.body if not isinstance(node, ast.ClassDef) for one in names_in(node)}
        inside = {one for node in functions for one in names_in(node)}
        assert optional in inside - outside


if __name__ == "__main__":
    for path in sorted(path_files()):
        print(path.relative_to(ROOT))
    print("longest chain of imports:", *chain(), sep="\n  ")
    for name, number in figures().items():
        print(f"{number:6d}  {name} (at most {MOST[name]})")

"""The documents list 66 problems of input, and for each a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKS = (ROOT / "docs/reference/input-checks.md").read_text(encoding="utf-8")
TESTS = (ROOT / "docs/explanation/robustness.md").read_text(encoding="utf-8")


def test_every_case_is_there_and_links_to_a_test():
    rows = re.findall(r"^\| (\d+) \| \[`(\w+)`\]\(\.\./\.\./(tests/[\w/]+\.py)\) \|$", TESTS, re.MULTILINE)
    numbers = list(range(1, 67))
    assert [int(number) for number, _, _ in rows] == numbers
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", CHECKS, re.MULTILINE)] == numbers
    for number, name, file in rows:
        assert f"def test_{name}(" in (ROOT / file).read_text(encoding="utf-8"), f"case {number}: {file} has no {name}"


def test_every_link_to_a_test_leads_to_one():
    links = re.findall(r"\[`(\w+)`\]\(\.\./\.\./(tests/[\w/]+\.py)\)", TESTS)
    assert len(links) > 70
    for name, file in links:
        assert f"def test_{name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"

"""docs/robustness.md names all 66 cases, and tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_case_is_there_and_links_to_a_test():
    text = (ROOT / "docs/robustness.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|.*?\[(\w+)\]\(\.\./(tests/[\w/]+\.py)\)", text, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 67))
    for number, name, file in rows:
        assert f"def test_{name}(" in (ROOT / file).read_text(encoding="utf-8"), f"case {number}: {file} has no {name}"


def test_every_link_to_a_test_leads_to_one():
    text = (ROOT / "docs/robustness.md").read_text(encoding="utf-8")
    for name, file in re.findall(r"\[(\w+)\]\(\.\./(tests/[\w/]+\.py)\)", text):
        assert f"def test_{name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"

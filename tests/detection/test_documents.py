import ast
import json
import math
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection import documents
from detection.documents import DocumentError, parse_json, parse_yaml, read_bytes, read_json, read_yaml

ROOT = Path(__file__).resolve().parents[2]

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), st.booleans())
def test_json_is_read_as_the_json_module_reads_it(content, encoding, plain):
    text = json.dumps(content, ensure_ascii=plain)
    assert parse_json(text.encode(encoding), "a.json") == json.loads(text)
    assert parse_json(text.encode(encoding), "a.json", entry=dict) == json.loads(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"[1, 2", "is the file complete"),
        (b"\xff[1]", "is not text in UTF-8"),
        (b'{"id": 1, "id": 2}', "the key 'id' occurs twice"),
        (b'[{"a": ":", "b": {"c": 1, "c": 1}}]', "the key 'c' occurs twice"),
        (b"[" * 65 + b"]" * 65, "nested too deeply, over 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested too deeply, over 64"),
        (b'["' + b"]" * 99 + b'",' + b"[" * 65 + b"]" * 65 + b"]", "nested too deeply, over 64"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1" + b"0" * 5000 + b"]", "a number of 5001 digits; at most 256"),
        (b"[-1" + b"0" * 400 + b"]", "digits; at most 256"),
        (b"[1e999]", "too large for a float"),
        (b"[NaN]", "the number NaN"),
        (b"[-Infinity]", "the number -Infinity"),
    ],
)
def test_broken_json_is_rejected_in_one_line_that_names_the_file(data, message):
    with pytest.raises(DocumentError, match=f"^a.json: .*{message}") as raised:
        parse_json(data, "a.json")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_brackets_in_text_are_not_deep():
    for text in ("[" * 500, '"' + "[" * 500, "\\" + "[" * 500, "\\" * 3 + '"' + "{" * 500, ":" + "[" * 99):
        assert parse_json(json.dumps({text: [text]}).encode(), "a.json") == {text: [text]}
    assert len(parse_json(b"[" * 64 + b"]" * 64, "a.json")) == 1


@pytest.mark.parametrize("before", range(0, 300, 37))
def test_long_numbers_are_found_wherever_they_stand(before):
    for digits, wrong in ((256, False), (257, True)):
        data = b" " * before + b"[1.5, 9" + b"0" * (digits - 1) + b"]"
        assert documents._has_long_number(data)
        if wrong:
            with pytest.raises(DocumentError, match="257 digits"):
                parse_json(data, "a.json", entry=dict)
        else:
            assert parse_json(data, "a.json", entry=dict) == [1.5, 9 * 10**255]


def test_whole_numbers_of_more_than_64_bits_are_exact():
    for number in (2**64 + 1, -(2**63) - 1, 10**200 + 7):
        assert parse_json(json.dumps([{"a": number}]).encode(), "a.json") == [{"a": number}]


LISTS = {
    "plain": [{"id": k, "segmentation": [[k, 2.5]], "name": "x" * 20} for k in range(30)],
    "nested": [{"a": [{"b": 1}, {"c": [{"d": 2}, {"e": 3}]}], "r": {"size": [1, 2]}}] * 20,
    "text": [{"t": '}, {"id": 1}, {'}, {"t": '\\"}, {'}, {"t": '"list": [{'}] * 10,
    "not finite": [*[{"id": k} for k in range(30)], {"x": math.inf}, *[{"id": k} for k in range(30)]],
    "long": [*[{"id": k} for k in range(30)], {"id": 2**70}, {"id": 3}],
    "odd": [{"a": 1}, 5, {"b": 2}, None, [{"c": 3}, {"d": 4}], "x"] * 9,
    "empty": [],
}


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", "\t:\n")])
@pytest.mark.parametrize("name", LISTS)
def test_a_long_list_in_pieces_is_what_it_is_as_a_whole(monkeypatch, name, separators):
    monkeypatch.setattr(documents, "_PIECE", 64)
    for content in (
        {"list": LISTS[name], "after": [1, {"list": LISTS[name]}]},
        {"before": '"list": [{', "inner": {"list": LISTS[name]}, "list": LISTS[name]},
        {"inner": {"list": LISTS[name]}},
        [{"list": LISTS[name]}],
    ):
        data = json.dumps(content, separators=separators).encode()
        assert parse_json(data, "a.json", dict, nonfinite=True, long_list="list") == content


def test_a_long_list_is_read_in_pieces_where_it_can_be(monkeypatch):
    monkeypatch.setattr(documents, "_PIECE", 64)
    data = json.dumps({"list": LISTS["plain"]}).encode()
    entries, rest = documents._pieces(data, "list", None)
    assert len(entries) > 25
    assert len(rest) < 200


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('{"id": 4, "id": 4}', "the key 'id' occurs twice in the object with id 4"),
        ('{"a": {"b": 1, "b" : 1}}', "the key 'b' occurs twice in one object"),
        ('{"id": 4', "not valid JSON"),
        ('{"id": ' + "[" * 70 + "]" * 70 + "}", "nested too deeply"),
        ('{"id": 1' + "0" * 300 + "}", "a number of 301 digits"),
    ],
)
def test_what_is_wrong_in_a_long_list_is_told_as_in_a_short_one(monkeypatch, broken, message):
    objects = [json.dumps(entry) for entry in LISTS["plain"]]
    data = ('{"list": [' + ", ".join([*objects, broken, *objects]) + "]}").encode()
    told = []
    for piece in (64, 1 << 30):
        monkeypatch.setattr(documents, "_PIECE", piece)
        with pytest.raises(DocumentError, match=message) as raised:
            parse_json(data, "a.json", dict, long_list="list")
        told.append(str(raised.value))
    assert told[0] == told[1]  # with the same place


def test_numbers_that_are_not_finite_are_read_where_they_are_asked_for():
    assert parse_json(b"[1e999, -Infinity]", "a.json", nonfinite=True) == [float("inf"), -float("inf")]


def test_what_is_no_regular_file_is_rejected_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "nowhere", Path("/dev/zero")):
        for read in (read_json, read_yaml):
            with pytest.raises(DocumentError, match=f"^{path}: "):
                read(path)


def test_a_file_that_is_too_large_is_rejected_before_it_is_read(tmp_path):
    path = tmp_path / "large.json"
    with open(path, "wb") as file:
        file.truncate(1 << 42)  # takes no space on the disk
    for read in (read_json, read_yaml):
        with pytest.raises(DocumentError, match=r"large\.json: has 4398046511104 bytes; the limit is"):
            read(path)
    assert read_bytes(ROOT / "setup.py", 1 << 20) == (ROOT / "setup.py").read_bytes()


def test_words_of_yaml_stay_as_they_are_written():
    words = ["on", "off", "yes", "no", "y", "007", "1e3", "null", "~", "2024-01-01", "1_000", "0x1f", "12:30", "true"]
    listed = "names:\n" + "".join(f"- {word}\n" for word in words)
    assert parse_yaml(listed, "data.yaml") == {"names": words}
    numbered = "names:\n" + "".join(f"  {k}: {word}\n" for k, word in enumerate(words))
    assert parse_yaml(numbered, "data.yaml") == {"names": {str(k): word for k, word in enumerate(words)}}
    assert parse_yaml("a: &one [x, 'y']\nb: *one\nc:\nd: {}", "data.yaml") == {
        "a": ["x", "y"], "b": ["x", "y"], "c": "", "d": {}
    }  # fmt: skip
    assert parse_yaml("", "data.yaml") is None


def bomb(line: str) -> str:
    """Nine lines, each of which repeats the one before."""
    names = "abcdefghijklmnopqrstu"
    return "a: &a {x: 1, y: [1, 2]}\n" + "".join(
        f"{new}: &{new} {line.format(old=old)}\n" for old, new in pairwise(names)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb("[*{old}, *{old}, *{old}, *{old}]"), "more than 250000 values"),
        (bomb("{{<<: [*{old}, *{old}]}}"), "more than 250000 values"),
        ("a: &a [*a]", "alias a is of nothing, or of what holds it, line 1"),
        ("a: *b", "alias b is of nothing"),
        ("- " * 70, "nested more than 64 deep"),
        ("[" * 100_000, "deep|depth|nest"),
        ("a: 1\nb: 2\na: 3", "key a occurs twice, line 3"),
        ("{[a]: b}", "a key is a list"),
        ("a: !!python/object/apply:os.system [x]", r"the tag .*os\.system is not allowed"),
        ("a: !mine x", "the tag !mine"),
        ("--- a\n--- b", "several documents"),
        ("a: 1" + "0" * 5000, "the number of digits is 5001"),
        ("a: [1, 2", "line 2"),
        ("a: \x07", "control characters"),
    ],
)
def test_broken_yaml_is_rejected_in_one_line_that_names_the_file(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(DocumentError, match=f"^{path}: not valid YAML .*({message})") as raised:
        read_yaml(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_no_other_module_reads_json_or_yaml():
    """But speed.py, which reads what its own process prints, and config_errors.py, which reads checked files.

    The programs standalone*.py are copied beside an exported model, and run without this package.
    """
    allowed = {"detection/documents.py", "detection/backbone_tool/speed.py", "detection/engine/config_errors.py"}
    allowed |= {f"detection/export/standalone{kind}.py" for kind in ("", "_classifier", "_maps")}
    found = set()
    for path in [*ROOT.glob("detection/**/*.py"), *ROOT.glob("backbones/**/*.py"), *ROOT.glob("tools/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                reads = node.attr.startswith(("load", "safe_load", "compose", "full_load", "unsafe_load", "parse"))
                if node.value.id in ("json", "orjson", "yaml") and reads:
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == allowed

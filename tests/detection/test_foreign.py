import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.foreign import LONGEST, cell, printable, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", "cat"),
        ("sea lion ü 猫", "sea lion ü 猫"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # the joiner belongs to the word
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("\u2066\u200b\ufeff\x9b", r"\u2066\u200b\ufeff\x9b"),
        ("\ud800", r"\ud800"),
        (17, "17"),
        (None, "None"),
        ("a" * 40 + "b" * 40, "a" * 30 + "…" + "b" * 29),
    ],
)
def test_what_is_shown(text, expected):
    assert shown(text) == expected


@given(st.text(st.characters()))
def test_what_is_shown_is_one_short_line_that_no_terminal_obeys(text):
    safe = shown(text)
    assert len(safe) <= LONGEST
    assert all(unicodedata.category(sign) not in ("Cc", "Cs", "Zl", "Zp") for sign in safe)
    assert all(sign in "\u200c\u200d" for sign in safe if unicodedata.category(sign) == "Cf")
    safe.encode()


def test_a_message_keeps_its_lines_and_its_length():
    assert printable("a\x1bb\n" + "c" * 99) == "a\\x1bb\n" + "c" * 99


def test_a_name_of_a_gigabyte_is_cut_before_it_is_looked_at():
    assert len(shown("\x1b" * 100_000_000)) == LONGEST


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "＝1", "=" * 99])
def test_text_is_never_a_formula(text):
    stream = io.StringIO()
    csv.writer(stream).writerow([cell(text)])
    (row,) = csv.reader(io.StringIO(stream.getvalue()))
    assert row[0].startswith("'")
    assert len(row[0]) <= LONGEST


def test_numbers_and_plain_text_stay():
    assert [cell(value) for value in (-1.5, 7, None, "cat", "a-b", "")] == [-1.5, 7, None, "cat", "a-b", ""]
    name = "folder/" * 20 + "image.png"
    assert cell(name, None) == name


NASTY = "\x1b[2J\u202e=HYPERLINK(1)" + "x" * 99


def test_reports_of_annotations_are_safe_to_print(tmp_path):
    from detection.coco.problems import Problems

    report = Problems(tmp_path / "a.json")
    report.warn("boxes without area (dropped)", NASTY)
    assert all(line.isprintable() and len(line) < 300 for line in str(report).splitlines())


def test_pages_hold_nothing_that_hides_or_turns_text():
    from detection.report.frame import frame

    page = frame("title \u202e", "<p>\x1b\u2066</p>\n")
    assert all(line.isprintable() for line in page.split("\n"))
    assert r"<title>title \u202e</title>" in page


def test_csv_files_hold_no_formulas(tmp_path):
    from detection.inference.outputs import Writer
    from detection.report.analysis import ImageRow
    from detection.report.files import _write_rows

    row = ImageRow(1, "=1" + "x" * 99 + ".jpg", 1, 1, 0, 0, 1.0)
    _write_rows(tmp_path / "images.csv", ImageRow, [row])
    with open(tmp_path / "images.csv", newline="") as file:
        assert next(csv.DictReader(file))["file_name"] == "'" + row.file_name  # whole, as it names the file
    writer = Writer(tmp_path, ["csv"], [NASTY], [1])
    assert writer.close() == [tmp_path / "results.csv"]


def test_errors_of_the_command_line_are_safe_to_print(tmp_path, capsys):
    from tests.support.commands import convert as main

    path = tmp_path / "labels"
    path.mkdir()
    (path / f"{NASTY[:30]}.txt").write_text("x")
    (path / f"{NASTY[:30]}.jpg").write_bytes(b"x")
    with pytest.raises(SystemExit):
        main(["yolo2coco", str(path), str(tmp_path / "out.json"), "--names", NASTY, "--images", str(path)])
    told = capsys.readouterr().err
    assert told.endswith("\n")
    note, error = told.splitlines()
    assert note.isprintable()
    assert error.isprintable()

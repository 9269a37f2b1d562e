"""``log.txt`` contains the output of the console."""

import io
import logging
import sys

from detection.engine.console import Console, Lines
from detection.engine.screen import Screen


def lines_of(*texts):
    lines = Lines()
    return [line for text in texts for line in lines.feed(text)]


def test_lines_are_what_a_terminal_ends_up_with():
    assert lines_of("one\ntw", "o\r\n", "\n") == ["one", "two", ""]
    assert lines_of("\r 10%\r 20%", "\r100%\n") == ["100%"]
    assert lines_of("\rbar\r   \rprinted\n") == ["printed"]
    assert lines_of("bar\r   \n", "next\n") == ["next"]
    assert lines_of("\x1b[1;31mred\x1b[0m \x1b]0;title\x07text\x1b[2K\n") == ["red text"]


def test_the_file_has_what_was_printed_before_it_was_known(tmp_path, capsys):
    before, console = (sys.stdout, sys.stderr), Console()
    console.open()
    try:
        print("early")
        console.write_into(tmp_path / "run/log.txt")
        print("late", file=sys.stderr)
        print("\x1b[1mhalf", end="")
    finally:
        console.close()
    assert (sys.stdout, sys.stderr) == before
    print("after")
    head, *lines = (tmp_path / "run/log.txt").read_text().splitlines()
    assert head.startswith("# 20")
    assert lines == ["early", "late"]
    assert capsys.readouterr().out == "early\n\x1b[1mhalfafter\n"


def test_a_second_start_appends(tmp_path):
    for word in ("first", "second"):
        console = Console()
        console.open()
        console.write_into(tmp_path / "log.txt")
        print(word)
        console.close()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["first", "second"]
    assert len(lines) == 4


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_handlers_of_logging_and_a_bar_are_copied_and_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    handler, logger = logging.StreamHandler(sys.stderr), logging.getLogger("test.console")
    logger.addHandler(handler)
    stream, console = handler.stream, Console()
    console.open()
    try:
        console.write_into(tmp_path / "log.txt")
        screen = Screen(sys.stderr)
        screen.open()
        screen.draw("step 1")
        logger.warning("warned")
        screen.draw("step 2")
        screen.close()
    finally:
        console.close()
        logger.removeHandler(handler)
    assert handler.stream is stream
    assert (tmp_path / "log.txt").read_text().splitlines()[1:] == ["warned", "step 2"]


def test_nothing_is_given_back_that_somebody_else_has_replaced(monkeypatch):
    console = Console()
    console.open()
    other = object()
    monkeypatch.setattr(sys, "stderr", other)
    console.close()
    assert sys.stderr is other

"""The status line of a terminal, on a pseudo-terminal whose output the tests convert to a screen."""

import logging
import sys

import pytest

from detection.engine.screen import Screen


class Terminal:
    """A stream that is one, and shows what stands in each of its lines."""

    def __init__(self) -> None:
        self.lines, self.column = [""], 0

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        pass

    def write(self, text: str) -> int:
        for letter in text:
            if letter == "\n":
                self.lines.append("")
            if letter in "\r\n":
                self.column = 0
                continue
            line = self.lines[-1].ljust(self.column)
            self.lines[-1] = line[: self.column] + letter + line[self.column + 1 :]
            self.column += 1
        return len(text)

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines]


@pytest.fixture
def terminal(monkeypatch):
    """Stands for both streams from the moment at which a screen opens: pytest puts its own there before a test."""
    found, opened = Terminal(), Screen.open

    def open_here(self: Screen) -> None:
        monkeypatch.setattr(sys, "stdout", found)
        monkeypatch.setattr(sys, "stderr", found)
        opened(self)

    monkeypatch.setattr(Screen, "open", open_here)
    return found


def test_what_is_printed_stands_above_the_line(terminal):
    screen = Screen(terminal)
    screen.open()
    print("before")
    screen.draw("a long line 1")
    print("Model: 5 M")
    print("error: no such file", file=sys.stderr)
    screen.draw("line 2")
    screen.draw("3")
    screen.close()
    print("after")
    assert terminal.shown == ["before", "Model: 5 M", "error: no such file", "3", "after", ""]
    assert sys.stdout is terminal


def test_half_a_line_is_not_drawn_over(terminal):
    screen = Screen(terminal)
    screen.open()
    print("half", end="")
    screen.draw("line")
    print("whole")
    screen.close()
    assert terminal.shown == ["half", "whole", ""]


def test_what_is_logged_stands_above_it_too(terminal):
    logger, handler = logging.getLogger("test_screen"), logging.StreamHandler(terminal)
    logger.addHandler(handler)
    try:
        screen = Screen(terminal)
        screen.open()
        screen.draw("a long line")
        logger.warning("news")
        screen.close()
        assert terminal.shown == ["news", ""]
        assert handler.stream is terminal
    finally:
        logger.removeHandler(handler)


def test_a_terminal_that_is_gone_ends_no_run(terminal):
    def fail(text: str) -> int:
        raise OSError(5, "Input/output error")

    screen = Screen(terminal)
    terminal.write = fail
    screen.draw("line")
    screen.close()


def test_a_stream_without_a_size_has_80_columns(terminal):
    assert Screen(terminal).width() == 79

"""Options of ``rcnn serve`` and its address; tests/detection/serve/test_load.py runs the command."""

import socket

import pytest

from detection.commands import serve as command
from detection.commands.main import main

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from detection.serve.server import is_local, listen


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--port", "99999"], "--port 99999: must be at most 65535"),
        (["--port", "-1"], "--port -1: must be at least 0"),
        (["--batch", "0"], "--batch 0: must be at least 1"),
        (["--timeout", "0"], "--timeout 0: must be above 0"),
        (["--timeout", "nan"], "--timeout nan: must be above 0"),
        (["--max-queue", "0"], "--max-queue 0: must be at least 1"),
        (["--precision", "fp16"], "argument --precision: invalid choice: 'fp16'"),
        (["--port", "0"], "weights: no_such_model does not exist"),
    ],
)
def test_a_wrong_option_is_one_line(options, expected, capsys):
    assert main(["serve", "no_such_model", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {expected}")


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["serve", "runs/first"]) == 2
    assert capsys.readouterr().err == "error: fastapi is not installed: pip install 'rcnn-toolkit[serve]'\n"


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_which_addresses_only_this_machine_reaches(host, local):
    assert is_local(host) == local


def test_an_address_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"--host 127.0.0.1 --port {port}: Address already in use; choose another"):
            listen("127.0.0.1", port)


def test_a_warning_names_an_address_that_others_reach(capsys):
    with listen("0.0.0.0", 0):
        assert "every machine that reaches 0.0.0.0 can use this server" in capsys.readouterr().err
    with listen("127.0.0.1", 0):
        assert capsys.readouterr().err == ""

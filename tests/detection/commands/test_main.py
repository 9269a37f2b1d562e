"""The program ``rcnn``: every command exists, has a help page, starts quickly, and reports errors in one line."""

import argparse
import json
import logging
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from detection.commands.main import COMMANDS, command, main, overview, parser_of
from detection.commands.options import SHARED

ROOT = Path(__file__).resolve().parents[3]


def actions(name):
    """The options of a command and of its words."""
    todo, found = [parser_of(name)], []
    while todo:
        for action in todo.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                todo += action.choices.values()
            else:
                found.append(action)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_in_a_page(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 60
    assert "example:" in text
    assert f"rcnn {name}" in text
    assert all(action.help for action in actions(name)), "an option without help"


def test_the_overview_names_all_commands():
    assert all(f"  {name} " in overview() for name in COMMANDS)
    assert len(overview().splitlines()) <= 60


@pytest.mark.parametrize("name", COMMANDS)
def test_shared_options_have_one_form_everywhere(name):
    for action in actions(name):
        for flag in action.option_strings:
            shared = SHARED.get(flag.lstrip("-").replace("-", "_"))
            if shared is None or not flag.startswith("--"):
                continue
            if name in ("predict", "serve") and flag == "--score":  # by class, too
                continue
            if name == "backbones" and flag in ("--seed", "--batch", "--precision", "--output", "--size"):
                assert action.type is not None or action.choices  # numbers that must be positive
                continue
            assert action.type == shared.get("type"), flag
            assert set(action.choices or ()) <= set(shared.get("choices", ())), flag


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_tool_of_the_checkout(name):
    path = ROOT / "tools" / f"{'backbone' if name == 'backbones' else name}.py"
    assert path.is_file()
    if name != "benchmark":  # the one of the checkout compares with other toolkits
        assert len([line for line in path.read_text().splitlines() if line]) <= 6


def test_help_and_version_need_no_pytorch():
    code = (
        "import sys; from detection.commands.main import main\n"
        "for given in (['--help'], ['--version'], ['train', '--help'], ['evaluate', '--help']):\n"
        "    assert main(given) == 0\n"
        "heavy = {'torch', 'lightning', 'cv2', 'numpy', 'jsonargparse'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_package(capsys):
    import detection

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rcnn-toolkit {detection.__version__}\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["tran"], "tran: no such command; did you mean train?"),
        (["frobnicate"], "frobnicate: no such command"),
        (["predict", "m", "x.jpg", "--ouput", "y"], "--ouput: no such option; did you mean --output?"),
        (["predict"], "the following arguments are required: MODEL, SOURCE"),
        (["benchmark", "m", "--batch", "many"], "argument --batch: invalid int value: 'many'"),
        (["predict", "m", "x.jpg", "--precision", "fp7"], "argument --precision: invalid choice: 'fp7'"),
    ],
)
def test_a_wrong_line_gives_one_line_and_code_2(given, expected, capsys):
    assert main(given) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {expected}")


def test_former_names_go_on_working_with_a_note(capsys):
    assert main(["backbone", "list", "resnet18"]) == 0
    shown = capsys.readouterr()
    assert "resnet18" in shown.out
    assert shown.err.startswith("note: rcnn backbone is rcnn backbones now")
    assert main(["fit", "--help"]) == 0
    assert "note: rcnn fit is rcnn train now" in capsys.readouterr().err


def test_the_former_predict_says_the_new_word(capsys):
    assert main(["predict", "--config", "no_such_config"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("note: this is the old form of rcnn predict")
    assert lines[1].startswith("error: no config no_such_config")


def test_json_goes_to_stdout_alone_and_lines_to_stderr(capsys):
    assert main(["configs", "list", "demo", "--json"]) == 0
    shown = capsys.readouterr()
    assert [row["name"] for row in json.loads(shown.out)] == ["demo"]
    assert "\ndemo " in shown.err


def test_json_goes_to_a_file_too(tmp_path, capsys):
    assert main(["env", "--json", str(tmp_path / "new" / "env.json")]) == 0
    assert json.loads((tmp_path / "new" / "env.json").read_text())["torch"] in capsys.readouterr().out


def test_a_closed_pipe_is_no_error():
    line = f"{sys.executable} -m detection models list | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError):
        main(["configs", "show", "no_such_config", "--debug"])


def test_tools_take_the_words_of_before(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tools/backbone.py", "list", "resnet18"])
    assert command("backbones") == 0
    assert "resnet18" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (["--help"], 0.5),
        (["--version"], 0.5),
        (["configs", "list"], 0.5),
        (["train", "--help"], 1.5),
        (["predict", "--help"], 1.5),
    ],
)
def test_it_starts_quickly(given, seconds):
    taken = []
    for _ in range(3):
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "detection", *given], cwd=ROOT, capture_output=True, check=True)
        taken.append(time.monotonic() - start)
    assert min(taken) < seconds


def test_command_modules_import_nothing_heavy_at_the_top():
    code = (
        "import sys; from importlib import import_module\n"
        "from detection.commands.main import COMMANDS\n"
        "for name in COMMANDS: import_module(f'detection.commands.{name}')\n"
        "heavy = {'torch', 'lightning', 'cv2', 'numpy', 'jsonargparse', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_what_the_program_calls(name):
    module = import_module(f"detection.commands.{name}")
    assert module.__doc__
    assert callable(module.run)
    assert "rcnn" in module.EPILOG


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("a bug"), ImportError("a bug")])
def test_an_error_of_a_training_that_no_user_can_correct_keeps_its_traceback(error, monkeypatch):
    def fails(arguments):
        raise error

    monkeypatch.setattr("detection.engine.command.run", fails)
    for given in (["train", "demo"], ["validate", "m"], ["test", "m"], ["predict", "--config", "demo"]):
        with pytest.raises(type(error), match="a bug"):
            main(given)


def test_a_pipe_that_a_worker_broke_is_no_closed_output(monkeypatch, capsys):
    def fails(arguments):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("detection.engine.command.run", fails)
    assert main(["train", "demo"]) == 1
    assert "gone" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_quiet_and_debug(name):
    flags = {flag for action in actions(name) for flag in action.option_strings}
    assert {"-q", "--quiet", "--debug"} <= flags


def test_quiet_prints_errors_and_json_only(tmp_path, capsys):
    assert main(["configs", "list", "demo", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["configs", "-q", "list", "demo", "--json"]) == 0
    shown = capsys.readouterr()
    assert [one["name"] for one in json.loads(shown.out)] == ["demo"]
    assert shown.err == ""
    assert main(["configs", "list", "no_such*", "-q"]) == 2
    assert capsys.readouterr() == ("", "error: no config matches no_such*; `rcnn configs list` prints all\n")
    assert main(["predict", "m", "x.jpg", "--quiet", "--verbose"]) == 2
    assert capsys.readouterr().err == "error: give --quiet or --verbose, not both\n"


def test_quiet_hides_progress_and_information_until_the_command_ends(capsys):
    from detection.quiet import is_quiet, quiet

    logger = logging.getLogger("a command")
    with quiet():
        assert is_quiet()
        assert not logger.isEnabledFor(logging.INFO)
        assert logger.isEnabledFor(logging.WARNING)
        print("hidden")
    assert not is_quiet()
    with quiet(wanted=False):
        assert not is_quiet()
        print("shown")
    assert capsys.readouterr().out == "shown\n"

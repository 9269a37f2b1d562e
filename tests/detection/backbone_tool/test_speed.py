import json
import subprocess

import pytest

from backbones import available
from detection.backbone_tool import speed
from tests.support.commands import backbones as main

COSTS = {"parameters": 11_200_000, "multiply_adds": 38_700_000_000, "train": 1.234, "infer": 4.0, "memory": 0.75}


def test_a_table_takes_the_place_of_the_last_one(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{speed.BEGIN}\nold\n{speed.END}\nafter\n")
    speed.insert("new", page)
    assert page.read_text() == f"before\n{speed.BEGIN}\nnew\n{speed.END}\nafter\n"
    assert list(tmp_path.iterdir()) == [page]
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no place for the table"):
        speed.insert("new", page)


def test_a_table_grows_row_by_row_and_continues_where_it_stopped(tmp_path, monkeypatch):
    page, asked = tmp_path / "page.md", []
    page.write_text(f"before\n{speed.BEGIN}\nold\n{speed.END}\nafter\n")
    outcome = {
        "resnet18": subprocess.CompletedProcess([], 1, "", "Traceback\nRuntimeError: no | memory\n"),
        "resnet34": subprocess.CompletedProcess([], -9, "", "a warning\n"),
        "plain18": subprocess.TimeoutExpired([], 600),
        "vgg11": KeyboardInterrupt(),
    }

    def run(command, **_options):
        asked.append(command[5])
        done = outcome.get(command[5], subprocess.CompletedProcess([], 0, json.dumps(COSTS), ""))
        if isinstance(done, BaseException):
            raise done
        return done

    monkeypatch.setattr(subprocess, "run", run)
    names = ["resnet10", "resnet18", "resnet34", "plain18", "vgg11", "swin_t"]
    command = ["benchmark", "--names", *names, "--into", str(page)]
    with pytest.raises(SystemExit):
        main(command)
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    assert rows == [
        "| `resnet10` | 11.2 | 38.7 | 1.23 | 4 | 0.75 |",
        "| `resnet18` | not measured: RuntimeError: no / memory | | | | |",
        "| `resnet34` | not measured: ended by signal 9 | | | | |",
        "| `plain18` | not measured: took over 600 s | | | | |",
    ]
    outcome.clear()
    outcome["plain18"] = subprocess.CompletedProcess([], 1, "", "RuntimeError: again\n")
    main([*command, "--resume"])
    assert "| `plain18` | not measured: RuntimeError: again |" in page.read_text()
    outcome.clear()
    asked.clear()
    main([*command, "--resume"])
    assert asked == ["plain18"]
    text = page.read_text()
    assert [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")] == names
    assert "not measured" not in text
    assert "--resume" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_a_table_of_something_else_is_not_continued(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"{speed.BEGIN}\nOf another machine.\n\n| `resnet10` | 1 | 1 | 1 | 1 | 1 |\n{speed.END}\n")
    for more in (["--into", str(page)], []):
        with pytest.raises(SystemExit):
            main(["benchmark", "--names", "resnet10", "--resume", *more])
        assert "--resume" in capsys.readouterr().err


def test_the_table_names_all_but_the_largest():
    assert len(speed.NAMES) == len(set(speed.NAMES))
    assert set(available()) - set(speed.NAMES) == {"regnet_y_128gf"}
    timm = pytest.importorskip("timm")
    assert [name for name in speed.TIMM if not timm.is_model(name)] == []

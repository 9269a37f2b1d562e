"""The lines of evaluations, and those of a run that is resumed."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from detection.engine.metrics_file import MetricsFile, restore_lines


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_metrics_file_has_a_line_per_evaluation(tmp_path):
    values = {
        "val/bbox/AP": torch.tensor(0.25),
        "val/bbox/APl": torch.tensor(math.nan),
        "train/loss": torch.tensor(1.0),
    }
    trainer = SimpleNamespace(
        global_step=7,
        current_epoch=2,
        callback_metrics=values,
        log_dir=str(tmp_path / "run"),
        is_global_zero=True,
        sanity_checking=False,
    )
    trainer.state = SimpleNamespace(fn="fit")
    MetricsFile().on_validation_end(trainer, None)
    trainer.sanity_checking = True
    MetricsFile().on_validation_end(trainer, None)
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"epoch": 2, "step": 7, "val/bbox/AP": 0.25, "val/bbox/APl": None}]


def write(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))


FIRST, SECOND = {"epoch": 0, "step": 4, "val/AP": 0.1}, {"epoch": 1, "step": 8, "val/AP": 0.2}
VALIDATED, TESTED = {"epoch": 0, "step": 0, "val/AP": 0.1}, {"epoch": 0, "step": 0, "test/AP": 0.1}


def test_lines_after_the_checkpoint_are_taken_out_and_kept_aside(tmp_path):
    """Also one that was cut off; but not those of evaluations by themselves."""
    path = tmp_path / "metrics.json"
    write(path, FIRST, VALIDATED, TESTED, SECOND, '{"epoch": 1, "st')
    assert restore_lines(path, [FIRST]) == tmp_path / "metrics_0.json"
    assert lines_of(tmp_path) == [FIRST, VALIDATED, TESTED]
    assert (tmp_path / "metrics_0.json").read_text().endswith('"st')


def test_lines_that_the_folder_lacks_are_written(tmp_path):
    assert restore_lines(tmp_path / "new/metrics.json", [FIRST, SECOND]) is None
    assert lines_of(tmp_path / "new") == [FIRST, SECOND]
    write(tmp_path / "new/metrics.json", FIRST, TESTED)
    assert restore_lines(tmp_path / "new/metrics.json", [FIRST, SECOND]) is None
    assert lines_of(tmp_path / "new") == [FIRST, SECOND, TESTED]


def test_lines_that_are_as_they_should_be_are_left_alone(tmp_path):
    path = tmp_path / "metrics.json"
    write(path, FIRST, SECOND)
    before = path.stat()  # reading may change the time of access alone
    assert restore_lines(path, [FIRST, SECOND]) is None
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("lines", [None, {}, [1], [{"AP": torch.ones(2)}], [{1: 0.5}], [{"AP": "=1"}]])
def test_lines_out_of_a_checkpoint_are_checked(lines):
    with pytest.raises(ValueError, match="no list of names and numbers"):
        MetricsFile().load_state_dict({"lines": lines})

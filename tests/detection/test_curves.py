import math

import cv2
import pytest

from detection.curves import read_run, smooth
from tests.support.commands import plot as main


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "first"
    folder.mkdir()
    lines = ["epoch,step,train/loss,train/lr,val/bbox/AP"]
    lines += [f"0,{step},{3 / (1 + step)},{0.01 * step}," for step in range(0, 50, 10)]
    lines += ["1,49,,,0.25", "1,40,0.5,0.4,", "1,60,nan,0.1,"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_later_rows_of_a_step_win_and_gaps_are_no_points(run):
    curves = read_run(run)
    assert dict(curves["train/loss"])[40] == 0.5
    assert curves["val/bbox/AP"] == [(49, 0.25)]
    assert [step for step, _ in curves["train/lr"]] == [0, 10, 20, 30, 40, 60]
    assert math.isnan(curves["train/loss"][-1][1])


def test_a_run_that_was_resumed_has_the_curves_of_all_its_starts(run):
    later, earlier = run / "metrics.csv", run / "metrics_0.csv"
    later.rename(earlier)
    later.write_text("epoch,step,train/loss\n1,60,0.25\n2,70,0.125\n")
    curves = read_run(run)
    assert curves["train/loss"][-2:] == [(60, 0.25), (70, 0.125)]
    assert dict(curves["train/loss"])[40] == 0.5
    assert read_run(later)["train/loss"] == [(60, 0.25), (70, 0.125)]


def test_smoothing_is_a_mean_of_what_is_finite():
    assert smooth([(0, 1.0), (1, 3.0), (2, math.nan), (3, 5.0)], 3) == [(0, 2.0), (1, 2.0), (2, 4.0), (3, 5.0)]
    assert smooth([(0, math.nan)], 1) == []


def test_one_run_and_two(run, tmp_path):
    second = tmp_path / "other" / "first"
    second.mkdir(parents=True)
    (second / "metrics.csv").write_text((run / "metrics.csv").read_text())
    for runs in ([run], [run, second]):
        target = tmp_path / f"{len(runs)}.png"
        main([*map(str, runs), "--output", str(target), "--smooth", "3"])
        assert cv2.imread(str(target)).std() > 5


def test_mistakes_are_told(tmp_path, capsys):
    (tmp_path / "empty.csv").write_text("epoch,step\n")
    (tmp_path / "new").mkdir()
    places = ((tmp_path / "none", "cannot be read"), (tmp_path / "new", "has no train.csv; give the folders of runs"))
    for path, message in (*places, (tmp_path / "empty.csv", "no values yet")):
        with pytest.raises(SystemExit) as stop:
            main([str(path)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err

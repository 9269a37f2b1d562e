"""The tables of a run, and how a resumed run continues them."""

import math
from types import SimpleNamespace

import pytest
import torch

from detection.engine.tables import Table, Tables, TrainTable, restore_rows
from detection.run_files import evaluations, read_table

FIRST, SECOND = {"epoch": 1, "step": 4, "val/AP": 0.1}, {"epoch": 2, "step": 8, "val/AP": 0.2}
VALIDATED = {"epoch": 0, "step": 0, "val/AP": 0.1}


def test_a_table_grows_by_rows_and_by_columns(tmp_path):
    table = Table(tmp_path / "new/a.csv")
    table.append({"step": 1, "loss": 1 / 3})
    table.append({"step": 2, "loss": math.nan})
    Table(table.path).append({"step": 3, "lr": 1e-7})
    assert table.path.read_text() == "epoch,step,loss,lr\n,1,0.333333,\n,2,nan,\n,3,,1e-07\n"


def test_a_line_that_was_cut_off_is_replaced(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("epoch,step,loss\n1,1,0.5\n1,2,0.")
    assert read_table(path) == [{"epoch": 1, "step": 1, "loss": 0.5}]
    Table(path).append({"epoch": 1, "step": 2, "loss": 0.25})
    assert path.read_text() == "epoch,step,loss\n1,1,0.5\n1,2,0.25\n"


def test_a_cell_that_is_no_number_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("step,loss\n1,0.5\n2,=1+1\n")
    with pytest.raises(ValueError, match=r"a\.csv: line 3 has a cell that is no number"):
        read_table(tmp_path / "a.csv")


def test_the_metrics_of_a_step_are_one_row_and_those_of_evaluations_are_left_out(tmp_path):
    logger = TrainTable(tmp_path)
    logger.log_metrics({"train/loss": 0.5, "epoch": 0}, 0)
    logger.log_metrics({"lr-SGD": 0.1, "val/AP": 0.5, "epoch": 0}, 0)
    logger.log_metrics({"train/loss": 0.25, "lr-SGD": 0.1, "epoch": 1}, 1)
    logger.log_metrics({"val/AP": 0.5, "epoch": 1}, 1)
    logger.finalize("success")
    logger.finalize("success")
    assert (tmp_path / "train.csv").read_text() == "epoch,step,train/loss,lr-SGD\n1,1,0.5,0.1\n2,2,0.25,0.1\n"


def trainer_at(folder, step, **metrics):
    trainer = SimpleNamespace(global_step=step, current_epoch=step // 4 - 1, loggers=[], sanity_checking=False)
    trainer.callback_metrics = {name.replace("_", "/"): torch.tensor(value) for name, value in metrics.items()}
    trainer.log_dir, trainer.is_global_zero, trainer.state = str(folder), True, SimpleNamespace(fn="fit")
    return trainer


def test_each_evaluation_is_a_row(tmp_path):
    tables, trainer = Tables(), trainer_at(tmp_path / "run", 8, val_AP=0.25, val_APl=math.nan, train_loss=1.0)
    tables.setup(trainer, None, "fit")
    trainer.sanity_checking = True
    tables.on_validation_end(trainer, None)
    trainer.sanity_checking = False
    tables.on_validation_end(trainer, None)
    assert (tmp_path / "run/val.csv").read_text() == "epoch,step,val/AP,val/APl\n2,8,0.25,nan\n"
    assert tables.state_dict()["step"] == 8


def test_other_ranks_write_nothing(tmp_path):
    tables, trainer = Tables(), trainer_at(tmp_path, 8, val_AP=0.25)
    trainer.is_global_zero = False
    tables.on_validation_end(trainer, None)
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_has_each_row_once(tmp_path, capsys):
    """The rows behind the checkpoint are kept aside, whatever steps the rows of another batch size have."""
    (tmp_path / "train.csv").write_text("epoch,step,train/loss\n1,90,3\n1,10,2\n1,11,1\n2,12,0.5\n")
    (tmp_path / "val.csv").write_text("epoch,step,val/AP\n1,4,0.1\n0,0,0.1\n2,8,0.2\n")
    tables, trainer = Tables(), trainer_at(tmp_path, 0)
    tables.load_state_dict({"rows": [FIRST], "step": 10})
    tables.on_fit_start(trainer, SimpleNamespace(print=print))
    assert [row["step"] for row in read_table(tmp_path / "train.csv")] == [90, 10]
    assert [row["step"] for row in read_table(tmp_path / "train_0.csv")] == [11, 12]
    assert evaluations(tmp_path) == [FIRST, VALIDATED]
    assert read_table(tmp_path / "val_0.csv") == [SECOND]
    assert "train_0.csv and" in capsys.readouterr().out


def test_rows_that_the_folder_lacks_are_written(tmp_path):
    path = tmp_path / "new/val.csv"
    assert restore_rows(path, [FIRST, SECOND]) is None
    assert read_table(path) == [FIRST, SECOND]
    Table(path).write([FIRST, VALIDATED])
    assert restore_rows(path, [FIRST, SECOND]) is None
    assert read_table(path) == [FIRST, SECOND, VALIDATED]


def test_rows_that_are_as_they_should_be_are_left_alone(tmp_path):
    path = tmp_path / "val.csv"
    Table(path).write([FIRST, SECOND | {"val/APl": math.nan}])
    before = path.stat()  # reading may change the time of access alone
    assert restore_rows(path, [FIRST, SECOND | {"val/APl": math.nan}]) is None
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("rows", [None, {}, [1], [{"AP": torch.ones(2)}], [{1: 0.5}], [{"AP": "=1"}], [{"AP": None}]])
def test_rows_out_of_a_checkpoint_are_checked(rows):
    with pytest.raises(ValueError, match="must be a list of names and numbers"):
        Tables().load_state_dict({"rows": rows, "step": 1})


def test_a_checkpoint_of_an_older_version_brings_its_evaluations(tmp_path):
    tables = Tables()
    tables.load_state_dict({"lines": [{"epoch": 0, "step": 4, "val/AP": 0.1234567, "val/APl": None}]})
    (row,) = tables.state_dict()["rows"]
    assert (row["epoch"], row["step"], row["val/AP"]) == (1, 4, 0.123457)
    assert math.isnan(row["val/APl"])
    with pytest.raises(ValueError, match="must be a list of names and numbers"):
        Tables().load_state_dict({"lines": [1]})


def test_the_evaluations_of_an_older_run_are_found(tmp_path):
    (tmp_path / "metrics.json").write_text('{"epoch": 0, "step": 4, "val/AP": null}\n')
    (row,) = evaluations(tmp_path)
    assert math.isnan(row.pop("val/AP"))
    assert row == {"epoch": 0, "step": 4}
    assert evaluations(tmp_path / "none") == []

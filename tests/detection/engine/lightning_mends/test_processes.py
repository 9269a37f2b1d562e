"""Lightning's signal handlers, its watch over ranks, and an error that it hides."""

import signal

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies.launchers import subprocess_script
from torch.utils.data import DataLoader

from detection.engine.lightning_mends.processes import hidden_error, keep_signal_handlers_away, observe_children_by


@pytest.mark.parametrize("kept_away", [False, True])
def test_lightning_installs_handlers_unless_they_are_kept_away(kept_away, tmp_path):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    if kept_away:
        keep_signal_handlers_away(trainer)
    before = signal.getsignal(signal.SIGTERM)
    try:
        trainer._signal_connector.register_signal_handlers()
        assert (signal.getsignal(signal.SIGTERM) == before) is kept_away
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_watch_over_ranks_can_be_replaced(monkeypatch):
    monkeypatch.setattr(subprocess_script, "_launch_process_observer", subprocess_script._launch_process_observer)
    watch = print
    observe_children_by(watch)
    assert subprocess_script._launch_process_observer is watch


class Broken(DataLoader):
    def __iter__(self):
        raise OSError("no more processes")


class Nothing(LightningModule):
    def training_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)


def test_lightning_hides_the_error_of_a_loaders_start(tmp_path):
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    keep_signal_handlers_away(trainer)  # which would stay after an error
    with pytest.raises(RuntimeError, match=r"iter\(combined_loader\)") as error:
        trainer.fit(Nothing(), Broken(range(1)))
    assert str(hidden_error(error.value)) == "no more processes"
    other = RuntimeError("another")
    assert hidden_error(other) is other

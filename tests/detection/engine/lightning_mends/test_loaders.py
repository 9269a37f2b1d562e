"""Lightning's order of sampler and epoch, and its changes of batch samplers."""

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.data import _update_dataloader
from torch.utils.data import DataLoader, Sampler

from detection.data.samplers import EvalBatchSampler, TrainBatchSampler
from detection.engine.lightning_mends.loaders import EpochLoader, evaluation_loader


class Line(LightningModule):
    """A model that can be trained for a moment."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch.float().reshape(-1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Recording(Sampler):
    """Tells in which epoch each iteration begins."""

    def __init__(self):
        self.epoch, self.begun = 0, []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 2

    def __iter__(self):
        self.begun.append(self.epoch)
        yield from (0, 1)


def quiet_trainer(folder, **options):
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, **options,
    )  # fmt: skip


def test_lightning_tells_samplers_their_epoch_after_a_resumed_run_has_begun_to_load(tmp_path):
    first = quiet_trainer(tmp_path, max_epochs=1)
    first.fit(Line(), DataLoader(torch.arange(2), sampler=Recording()))
    first.save_checkpoint(tmp_path / "a.ckpt")
    sampler = Recording()
    second = quiet_trainer(tmp_path, max_epochs=2)
    second.fit(Line(), DataLoader(torch.arange(2), sampler=sampler, num_workers=1), ckpt_path=tmp_path / "a.ckpt")
    assert sampler.begun[0] == 0  # where it should be 1


def test_our_loader_asks_for_its_place_before_it_loads():
    sampler = TrainBatchSampler(np.full((8, 2), 32), batch_size=2, seed=3)
    expected = list(sampler_at(5, 4))
    data = {key: key for batch in expected for key in batch}
    loader = EpochLoader(data, sampler, lambda: (5, 4, 2), collate_fn=list)
    assert list(loader) == expected


def sampler_at(epoch, images):
    sampler = TrainBatchSampler(np.full((8, 2), 32), batch_size=2, seed=3)
    sampler.start(epoch, images)
    return sampler


def test_lightning_wraps_batch_samplers_of_predictions_and_warns_of_ours():
    sampler = EvalBatchSampler(np.full((4, 2), 32), batch_size=2)
    with pytest.warns(UserWarning, match="custom batch sampler `EvalBatchSampler` for prediction"):
        again = _update_dataloader(DataLoader(range(4), batch_sampler=sampler), sampler, RunningStage.PREDICTING)
    assert type(again.batch_sampler) is not EvalBatchSampler


def test_a_loader_of_whole_batches_keeps_its_sampler():
    sampler = EvalBatchSampler(np.full((4, 2), 32), batch_size=2)
    loader = evaluation_loader(range(4), sampler)
    again = _update_dataloader(loader, loader.sampler, RunningStage.PREDICTING)
    assert again.sampler is sampler
    assert again.batch_size is None

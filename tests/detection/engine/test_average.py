"""The average of the weights, compared with PyTorch's own, and in a run."""

import signal

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from detection.engine.average import AverageConfig, Averaged
from detection.engine.module import DetectionModule


def models(steps: int):
    """A network with parameters, buffers of fractions and a counter, as it was after each step."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    for step in range(steps):
        torch.manual_seed(step)
        for tensor in (*model.parameters(), model[1].running_mean, model[1].running_var):
            nn.init.normal_(tensor)
        model[1].num_batches_tracked += 1
        yield model


@pytest.mark.parametrize("decay", [0.9, None])
def test_it_is_pytorchs_but_for_counters(decay):
    ours = theirs = None
    for model in models(5):
        if ours is None:
            ours = Averaged(model, torch.device("cpu"), decay)
            function = (
                {} if decay is None else {"avg_fn": lambda old, new, n: old.lerp(new, max(1 - decay, 9 / (n + 10)))}
            )
            theirs = AveragedModel(model, use_buffers=True, **function)
        ours.update_parameters(model)
        theirs.update_parameters(model)
    found, expected = ours.state_dict(), theirs.state_dict()
    assert found.keys() == expected.keys()
    assert int(found["n_averaged"]) == 5
    assert int(found.pop("module.1.num_batches_tracked")) == 5  # PyTorch's averages whole numbers, too
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_after_many_updates_it_is_pytorchs_average():
    ours, model = Averaged(nn.Linear(1, 1), torch.device("cpu"), 0.9), nn.Linear(1, 1)
    ours.n_averaged += 80
    theirs = AveragedModel(model, avg_fn=get_ema_avg_fn(0.9))
    theirs.module.load_state_dict(ours.module.state_dict())
    theirs.n_averaged += 80
    for each in (ours, theirs):
        each.update_parameters(model)
    for one, two in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_a_short_training_forgets_its_initial_weights():
    model = nn.Linear(1, 1)
    ours = Averaged(model, torch.device("cpu"), 0.9998)
    with torch.no_grad():
        for step in range(101):
            model.weight.fill_(step == 0)  # 1 at first, then 0
            ours.update_parameters(model)
    assert float(ours.module.weight) < 1e-6


def test_what_is_loaded_goes_on(tmp_path):
    steps = [{k: v.clone() for k, v in model.state_dict().items()} for model in models(4)]
    model = next(models(1))

    def averaged(start: Averaged, states) -> Averaged:
        for state in states:
            model.load_state_dict(state)
            start.update_parameters(model)
        return start

    whole = averaged(Averaged(model, torch.device("cpu"), None), steps)
    half = averaged(Averaged(model, torch.device("cpu"), None), steps[:2])
    other = averaged(Averaged(model, torch.device("cpu"), None), steps[:3])  # it counts to three already
    other.load_state_dict(half.state_dict())
    averaged(other, steps[2:])
    for one, two in zip(whole.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("reference", "batch", "every", "expected"),
    [
        (None, 8, 1, 0.9998),  # whatever the batch
        (64, 64, 1, 0.9998),
        (64, 128, 1, 0.9998 * 0.9998),  # an update for two
        (64, 64, 3, 0.9998**3),
    ],
)
def test_the_decay_belongs_to_a_number_of_images(reference, batch, every, expected):
    config = AverageConfig(reference_batch=reference, every=every)
    assert config.decay_for(batch) == pytest.approx(expected, rel=1e-12)


def test_a_small_batch_keeps_as_much_after_the_same_images():
    config = AverageConfig(decay=0.9, reference_batch=16)
    assert config.decay_for(2) ** 8 == pytest.approx(0.9, rel=1e-12)


@pytest.mark.slow
def test_a_run_averages_by_its_batch(run, monkeypatch):
    decays = []
    monkeypatch.setattr(Averaged, "update_parameters", lambda self, _: decays.append(self._decay))
    average = "{decay: 0.81, reference_batch: 4}"  # batches of 2: the root of 0.81
    assert run("fit", "--run.average", average, "--trainer.max_steps", "1", "--data.val", "null") == 0
    assert decays[-1] == pytest.approx(0.9)
    assert run("fit", "--run.average", "{reference_batch: 0}") == 2


@pytest.mark.parametrize("kind", ["ema", pytest.param("mean", marks=pytest.mark.slow)])
def test_averaged_weights_are_what_is_saved(run, tmp_path, monkeypatch, kind):
    steps = []
    end = DetectionModule.on_before_zero_grad

    def spy(self, optimizer):
        steps.append({name: value.clone() for name, value in self.state_dict().items()})
        return end(self, optimizer)

    monkeypatch.setattr(DetectionModule, "on_before_zero_grad", spy)
    options = ("--run.average", f"{{kind: {kind}, decay: 0.5, start: 0.5}}", "--run.pictures", "0")
    assert run("fit", "--run.folder", "out", *options) == 0
    saved = torch.load(tmp_path / "out/checkpoints/best.ckpt", weights_only=True)
    assert "current_model_state" in saved
    name = "model.box_head.logits.weight"
    # Four steps; the average begins with the weights after the third and takes in the fourth.
    third, fourth = steps[3][name], saved["current_model_state"][name]
    assert not torch.equal(third, fourth)
    expected = third.lerp(fourth, 1 / 2 if kind == "mean" else 9 / 11)
    assert torch.allclose(saved["state_dict"][name], expected, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("average", ["{kind: mean, start: 0.75}", "{kind: ema, every: 50}"])
def test_before_there_is_an_average_the_models_own_weights_are_evaluated_and_saved(run, tmp_path, monkeypatch, average):
    """Not those it began with."""
    name, evaluated, trained = "model.box_head.logits.weight", [], []
    evaluate, step = DetectionModule.validation_step, DetectionModule.on_before_zero_grad

    def see(self, batch, batch_idx):
        evaluated.append(self.state_dict()[name].clone())
        return evaluate(self, batch, batch_idx)

    def note(self, optimizer):
        trained.append(self.state_dict()[name].clone())
        return step(self, optimizer)

    monkeypatch.setattr(DetectionModule, "validation_step", see)
    monkeypatch.setattr(DetectionModule, "on_before_zero_grad", note)
    options = ("--run.average", average, "--run.pictures", "0", "--model.schedule.length", "2")
    assert run("fit", "--run.folder", "out", *options, "--trainer.num_sanity_val_steps", "0") == 0
    after_an_epoch = trained[len(trained) // 2]
    assert not torch.equal(after_an_epoch, trained[0])
    assert torch.equal(evaluated[0], after_an_epoch)
    saved = torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)
    if "every" in average:
        assert torch.equal(saved["state_dict"][name], saved["current_model_state"][name])
    assert not torch.equal(saved["state_dict"][name], trained[0])


@pytest.mark.slow
def test_an_average_goes_on_with_another_batch(run, interrupted, tmp_path, monkeypatch):
    """Steps are counted anew then; Lightning's average takes in later ones only."""
    options = ("--run.average", "{decay: 0.9}", "--model.schedule.length", "3", "--run.pictures", "0")
    updates: list[int] = []
    assert interrupted(signal.SIGTERM, 5, "--run.folder", "parts", *options) == 143
    before = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)["global_step"]
    update = Averaged.update_parameters
    monkeypatch.setattr(Averaged, "update_parameters", lambda *a: updates.append(1) or update(*a))
    assert run("fit", "--run.folder", "parts", "--resume", "auto", *options, "--data.batch_size", "4") == 0
    after = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert before == 6
    assert after == 6  # of 12 with half of that batch
    assert len(updates) == 3


@pytest.mark.slow
def test_an_average_is_resumed_to_the_same_weights(run, interrupted, tmp_path):
    options = ("--run.average", "{decay: 0.9}", "--model.schedule.length", "2", "--run.pictures", "0")
    assert run("fit", "--run.folder", "whole", *options) == 0
    assert interrupted(signal.SIGTERM, 5, "--run.folder", "parts", *options) == 143
    assert run("fit", "--run.folder", "parts", "--resume", "auto", *options) == 0
    last = (torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "parts"))
    whole, parts = (checkpoint["state_dict"] for checkpoint in last)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_lightning_sets_callbacks_up_before_the_module(tmp_path):
    """So that its weight averaging would copy a module without a detector."""
    order = []

    class Module(LightningModule):
        def setup(self, stage):
            order.append("module")

        def train_dataloader(self):
            return []

        def training_step(self, batch, batch_idx):
            return None

        def configure_optimizers(self):
            return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)

    class Watch(Callback):
        def setup(self, trainer, pl_module, stage):
            order.append("callback")

    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "max_epochs": 1}
    Trainer(accelerator="cpu", callbacks=[Watch()], default_root_dir=tmp_path, **options).fit(Module())
    assert order == ["callback", "module"]

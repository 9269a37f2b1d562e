import copy

import pytest
import torch
from torch import nn

from detection.engine.checkpoint_checks import check_layout, check_optimizers, check_progress


class Loop:
    def state_dict(self):
        counts = {"ready": 0, "completed": 0}
        return {"state_dict": {}, "epoch_progress": {"total": counts, "current": counts}, "is_last_batch": False}


class Trainer:
    """What the checks ask of Lightning's."""

    def __init__(self, kind="sgd"):
        layer = nn.Linear(2, 3)
        layer(torch.ones(1, 2)).sum().backward()
        if kind == "sgd":
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        optimizer.step()
        scheduler.step()
        self.optimizers = [optimizer]
        self.lr_scheduler_configs = [type("Config", (), {"scheduler": scheduler})()]
        self.state = type("State", (), {"fn": Fn("fit")})()
        self.fit_loop = self.validate_loop = Loop()
        self.callbacks = []


class Fn(str):
    value = property(str)


def content(trainer):
    return copy.deepcopy(
        {
            "epoch": 1,
            "global_step": 4,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": {"a": torch.zeros(2)},
            "loops": {"fit_loop": Loop().state_dict()},
            "callbacks": {},
            "optimizer_states": [trainer.optimizers[0].state_dict()],
            "lr_schedulers": [trainer.lr_scheduler_configs[0].scheduler.state_dict()],
        }
    )


def put(values, path, value):
    for key in path[:-1]:
        values = values[key]
    values[path[-1]] = value


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_what_a_run_has_written_is_accepted(kind):
    trainer = Trainer(kind)
    saved = content(trainer)
    check_layout(saved, "a.ckpt")
    check_progress(saved, trainer, "a.ckpt")
    check_optimizers(saved, trainer, "a.ckpt")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["state_dict"], [1]),
        (["state_dict"], {"a": 1}),
        (["state_dict"], {1: torch.zeros(1)}),
        (["loops"], None),
        (["callbacks"], []),
        (["optimizer_states"], {}),
        (["lr_schedulers"], 3),
        (["epoch"], "1"),
        (["epoch"], -1),
        (["global_step"], True),
        (["global_step"], 2.0**60),
        (["pytorch-lightning_version"], "1.9.0"),
        (["pytorch-lightning_version"], "x" * 500),
        (["pytorch-lightning_version"], None),
        (["CocoDataModule"], {"epoch": 0}),
        (["CocoDataModule"], {"epoch": 0, "images": 8, "grouped": 2, "step_images": 0, "accumulated": 1}),
        (["CocoDataModule"], {"epoch": "x", "images": 8, "grouped": 2, "step_images": 2, "accumulated": 1}),
        (["MixedPrecision"], {"scale": float("nan")}),
        (["MixedPrecision"], {"scale": torch.zeros(3)}),
    ],
)
def test_a_layout_that_lightning_would_trip_over_is_one_line(path, value):
    saved = content(Trainer())
    put(saved, path, value)
    with pytest.raises(ValueError, match=r"^a\.ckpt: ") as error:
        check_layout(saved, "a.ckpt")
    assert len(str(error.value)) < 300


def test_what_lightning_would_follow_is_taken_out():
    saved = content(Trainer()) | {"hyper_parameters": {"_class_path": "os.system"}, "native_amp_scaling_state": 3}
    check_layout(saved, "a.ckpt")
    assert not {"hyper_parameters", "native_amp_scaling_state"} & saved.keys()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["loops"], {}),
        (["loops", "fit_loop"], 3),
        (["loops", "fit_loop", "other"], 3),
        (["loops", "fit_loop", "is_last_batch"], 3),
        (["loops", "fit_loop", "epoch_progress"], None),
        (["loops", "fit_loop", "epoch_progress", "total"], {"ready": "x"}),
        (["loops", "fit_loop", "epoch_progress", "total", "ready"], -1),
        (["loops", "fit_loop", "epoch_progress", "total", "reset"], 1),
    ],
)
def test_a_loop_of_another_kind_is_one_line(path, value):
    saved, trainer = content(Trainer()), Trainer()
    put(saved, path, value)
    with pytest.raises(ValueError, match=r"^a\.ckpt: its loops"):
        check_progress(saved, trainer, "a.ckpt")


def test_a_detector_alone_is_no_run():
    saved, trainer = content(Trainer()), Trainer()
    del saved["optimizer_states"]
    with pytest.raises(ValueError, match=r"no training to resume \(it lacks optimizer_states\).*--init-from"):
        check_progress(saved, trainer, "a.ckpt")
    trainer.state.fn = Fn("validate")
    saved.pop("loops")
    check_progress(saved, trainer, "a.ckpt")


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["optimizer_states"], []),
        (["optimizer_states", 0], 3),
        (["optimizer_states", 0, "state"], []),
        (["optimizer_states", 0, "state", 0], 3),
        (["optimizer_states", 0, "state", 7], {}),
        (["optimizer_states", 0, "state", "x"], {}),
        (["optimizer_states", 0, "state", 0], {"other": torch.zeros(3, 2)}),
        (["optimizer_states", 0, "param_groups"], []),
        (["optimizer_states", 0, "param_groups", 0, "lr"], "x"),
        (["optimizer_states", 0, "param_groups", 0, "lr"], float("nan")),
        (["optimizer_states", 0, "param_groups", 0, "lr"], -1.0),
        (["optimizer_states", 0, "param_groups", 0, "foreach"], torch.zeros(2)),
        (["optimizer_states", 0, "param_groups", 0, "params"], [0]),
        (["optimizer_states", 0, "param_groups", 0, "other"], 1),
        (["lr_schedulers"], []),
        (["lr_schedulers", 0, "last_epoch"], "x"),
        (["lr_schedulers", 0, "base_lrs"], [0.1, 0.1]),
        (["lr_schedulers", 0, "base_lrs"], ["x"]),
        (["lr_schedulers", 0, "optimizer"], 1),
        (["lr_schedulers", 0, "step"], 1),
    ],
)
def test_a_state_that_an_optimizer_could_not_have_is_one_line(kind, path, value):
    trainer = Trainer(kind)
    saved = content(trainer)
    put(saved, path, value)
    with pytest.raises(ValueError, match=r"^a\.ckpt: ") as error:
        check_optimizers(saved, trainer, "a.ckpt")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("value", [torch.zeros(2, 3), torch.full((3, 2), torch.nan), "x", [1]])
@pytest.mark.parametrize(("kind", "name"), [("sgd", "momentum_buffer"), ("adamw", "exp_avg")])
def test_momentum_of_another_shape_or_without_numbers_is_one_line(kind, name, value):
    trainer = Trainer(kind)
    saved = content(trainer)
    saved["optimizer_states"][0]["state"][0][name] = value
    with pytest.raises(ValueError, match=rf"state\[0\]\.{name} does not fit a parameter of \(3, 2\)"):
        check_optimizers(saved, trainer, "a.ckpt")

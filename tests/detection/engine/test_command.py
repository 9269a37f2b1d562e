"""The command line end to end, in this process, on a few drawn images."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import lightning
import lightning.fabric.utilities.rank_zero
import lightning.pytorch.utilities.rank_zero
import pytest
import torch
import yaml

from backbones.resnet import VARIANTS, ResNet
from detection.checkpoint import load_model
from detection.cli import complete, main
from detection.engine.errors import InputError, told
from detection.engine.module import DetectionModule

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    """The folder of a run that was trained for an epoch."""
    folder = tmp_path_factory.mktemp("trained")
    root = str(folder)
    assert main(["--config", str(tiny_config), "--trainer.default_root_dir", root]) == 0  # fit goes without saying
    return folder / "tiny" / "version_0"


def test_a_run_leaves_its_files(trained):
    names = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert names == {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "metrics.csv",
        "metrics.json",
        "run.json",
        "train_batch.jpg",
        "val_predictions_000004.jpg",
    }


def test_what_is_logged(trained):
    with open(trained / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    losses = {"loss", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    statistics = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}
    parts = ("data", "transfer", "dense", "proposals", "box_head", "mask_head", "backward", "optimizer")
    shares = {f"share_{part}" for part in parts}
    assert {key.removeprefix("train/") for key in rows[0] if key.startswith("train/")} == losses | shares | {
        "lr",
        "images_per_second",
        "data_wait",
    }
    told = [sum(float(row[f"train/{name}"]) for name in shares) for row in rows if row["train/share_data"]]
    assert told == pytest.approx([1, 1, 1])  # all but the first step
    assert {key for key in rows[0] if key.startswith("val/")} == {f"val/{name}" for name in losses} | {
        f"val/{kind}/{name}" for kind in ("bbox", "segm") for name in statistics
    }
    first = rows[0]
    # lr 0.02 for 16 images, 2 here; 4 steps are too few for a warm-up
    assert float(first["train/lr"]) == pytest.approx(0.02 * 2 / 16)
    assert float(first["train/loss"]) == pytest.approx(
        sum(float(first[f"train/{n}"]) for n in losses - {"loss"}), rel=1e-5
    )
    (line,) = (trained / "metrics.json").read_text().splitlines()
    assert json.loads(line).keys() - {"epoch", "step"} == {key for key in rows[0] if key.startswith("val/")}


@pytest.mark.slow
def test_the_saved_config_gives_the_same_run(trained, tmp_path):
    saved = str(trained / "config.yaml")
    assert main(["fit", "--config", saved, "--run.folder", str(tmp_path / "again")]) == 0
    first, again = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (trained, tmp_path / "again")
    )
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_checkpoint_suffices(trained):
    model, info = load_model(trained / "checkpoints" / "best.ckpt")
    assert model.test_size == (64, 96)
    assert info["categories"]["ids"] == list(model.categories.ids)
    assert info["model"]["backbone"]["name"] == "resnet10"


def test_validate_takes_the_model_from_the_checkpoint(trained, shapes, tmp_path, capsys):
    options = ["--data.root", str(shapes), "--config", str(write(tmp_path / "data.yaml", data_alone(trained)))]
    checkpoint = str(trained / "checkpoints" / "last.ckpt")
    folder = tmp_path / "out"
    assert main(["validate", *options, "--ckpt_path", checkpoint, "--run.folder", str(folder)]) == 0
    before, now = (json.loads((f / "metrics.json").read_text()) for f in (trained, folder))
    assert {name: now[name] for name in now if name.startswith("val/")} == {n: before[n] for n in before if "val/" in n}
    assert "AP100" not in capsys.readouterr().out


def test_test_and_predict_write_results(trained, run, shapes, tmp_path):
    checkpoint = ("--ckpt_path", str(trained / "checkpoints" / "last.ckpt"))
    val = "{images: val, annotations: annotations/instances_val.json}"
    assert run("test", *checkpoint, "--data.test", val, "--run.folder", "tested") == 0
    assert run("predict", *checkpoint, "--run.folder", "predicted") == 0
    images = {image["id"] for image in json.loads((shapes / "annotations/instances_val.json").read_text())["images"]}
    for kind in ("bbox", "segm"):
        tested, predicted = (
            json.loads((tmp_path / f / f"results_{kind}.json").read_text()) for f in ("tested", "predicted")
        )
        assert tested == predicted
        assert {result["image_id"] for result in tested} <= images
    assert "test/bbox/AP" in json.loads((tmp_path / "tested" / "metrics.json").read_text())


@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(("--data.workers", "1", "--model.schedule.unit", "iterations"), marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(run, tmp_path, monkeypatch, options):
    seen = []
    step = DetectionModule.training_step

    def spy(self, batch, batch_idx):
        seen.append((self.trainer.current_epoch, batch_idx, batch.image_ids.tolist()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DetectionModule, "training_step", spy)
    callback = "lightning.pytorch.callbacks.ModelCheckpoint"
    saving = json.dumps({"class_path": callback, "init_args": {"every_n_train_steps": 3, "save_top_k": -1}})
    length = ("--model.schedule.length", "2" if not options else "1")  # 8 steps of 2 images either way
    assert run("fit", *options, *length, "--run.folder", "whole", "--trainer.callbacks", saving) == 0
    whole, checkpoints = list(seen), tmp_path / "whole" / "checkpoints"
    assert [batch[:2] for batch in whole] == [(e, b) for e in range(2) for b in range(4)]
    for middle in checkpoints.glob("epoch*.ckpt"):
        seen.clear()
        folder = tmp_path / middle.stem
        assert run("fit", *options, *length, "--run.folder", str(folder), "--ckpt_path", str(middle)) == 0
        assert seen == whole[int(middle.stem.split("step=")[1]) :]
        one, other = (
            torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (tmp_path / "whole", folder)
        )
        assert one["global_step"] == other["global_step"] == 8
        assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"])


def test_training_ends_with_a_validation_in_the_middle_of_an_epoch(run, tmp_path):
    assert run("fit", "--trainer.max_steps", "6", "--run.folder", "out", "--model.mask_head", "null") == 0
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 6]
    assert not any("segm" in name for name in json.loads(lines[0]))


@pytest.mark.slow
def test_accumulation_precision_adamw_and_own_callbacks(run, tmp_path):
    options = {
        "--trainer.accumulate_grad_batches": "2",
        "--trainer.precision": "bf16-mixed",
        "--trainer.gradient_clip_val": "1",
        "--model.optimizer.name": "adamw",
        "--model.optimizer.lr": "0.001",
        "--data.augment": '[{"class_path": "albumentations.RandomBrightnessContrast"}]',
        "--trainer.callbacks": '{"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}',
        "--run.folder": "out",
    }
    assert run("fit", *(word for option in options.items() for word in option)) == 0
    assert (
        torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    )  # 8 images, 2 a step


@pytest.mark.slow
def test_weights_to_start_from(trained, run, tmp_path, capsys):
    weights = ("--model.weights", str(trained / "checkpoints" / "last.ckpt"))
    assert run("fit", *weights, "--model.optimizer.lr", "0", "--run.folder", "out") == 0
    before, after = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for f in (trained, tmp_path / "out")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert run("fit", *weights, "--model.fpn.channels", "8") == 2
    assert "has other shapes" in capsys.readouterr().err


def test_other_classes_than_the_checkpoints(trained, shapes, run, tmp_path, capsys):
    content = json.loads((shapes / "annotations/instances_val.json").read_text())
    content["categories"][0]["name"] = "disc"
    (tmp_path / "renamed.json").write_text(json.dumps(content))
    annotations = ("--data.val.annotations", str(tmp_path / "renamed.json"))
    assert run("validate", *annotations, "--ckpt_path", str(trained / "checkpoints" / "last.ckpt")) == 2
    assert f"id {content['categories'][0]['id']}:" in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_and_saves_nothing(run, tmp_path, monkeypatch, capsys):
    step = DetectionModule.training_step

    def broken(self, batch, batch_idx):
        output = step(self, batch, batch_idx)
        output["terms"]["loss_cls"] = output["terms"]["loss_cls"] * float("nan")
        return output

    monkeypatch.setattr(DetectionModule, "training_step", broken)
    assert run("fit", "--run.folder", "out") == 1
    assert "loss_cls nan on the images with id" in capsys.readouterr().err
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--trainer.max_epoch 3", "no option trainer.max_epoch; did you mean trainer.max_epochs?"),
        ("--model.num_classes 3", "come from the annotations"),
        ("--model.backbone.name resnet5O", "did you mean resnet50"),
        ("--model.backbone.norm froze", "did you mean frozen?"),
        ("--model.mask_head.conv 2", "no option conv; did you mean convs?"),
        ("--data.batch_size many", "data.batch_size"),
        ("--data.train.image x", "did you mean data.train.images?"),
        ('--data.augment [{"class_path":"albumentations.HorizontalFlip","init_args":{"prob":1}}]', "no option prob"),
        ("--trainer.use_distributed_sampler true", "must be false"),
        ("--trainer.accelerator gpus", "gpus"),
        ("--config mask_rcnn_r50_fpn_1x_coc", "did you mean mask_rcnn_r50_fpn_1x_coco?"),
        ("--config twice.yaml", "key optimizer occurs twice"),
        ("--config unknown.yaml", "unknown.yaml, line 2"),
        ("--ckpt_path gone.ckpt", "gone.ckpt: no such checkpoint"),
    ],
)
def test_mistakes_are_told_before_any_data_are_read(run, tmp_path, capsys, monkeypatch, options, expected):
    def read(*_):
        raise AssertionError("data were read")

    monkeypatch.setattr("detection.engine.datamodule.load_annotations", read)
    write(tmp_path / "twice.yaml", "model:\n  optimizer: {lr: 0.1}\n  optimizer: {lr: 0.2}\n")
    write(tmp_path / "unknown.yaml", "model:\n  optimiser: {lr: 0.1}\n")
    assert run("fit", *options.split()) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error[error.index("error:") :].splitlines()) < 10
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_processes_evaluate_as_one(tiny_config, trained, tmp_path):
    metrics = []
    for devices in ("1", "2"):
        folder = tmp_path / devices
        options = ["--config", str(tiny_config), "--ckpt_path", str(trained / "checkpoints" / "last.ckpt")]
        options += ["--trainer.devices", devices, "--trainer.strategy", "ddp", "--run.folder", str(folder)]
        command = [sys.executable, "-m", "detection", "validate", *options]
        # Another number of threads would change the last digits.
        subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=120)
        metrics.append(json.loads((folder / "metrics.json").read_text()))
    one, two = metrics
    assert {name: one[name] for name in one if "/A" in name} == {name: two[name] for name in two if "/A" in name}
    losses = [name for name in one if "loss" in name]
    # Float32, added up in another order.
    assert [one[name] for name in losses] == pytest.approx([two[name] for name in losses], rel=1e-6)


def write(path, text):
    path.write_text(text)
    return path


def data_alone(trained):
    """The data settings of a run, as YAML."""
    saved = yaml.safe_load((trained / "config.yaml").read_text())
    return yaml.safe_dump({"data": saved["data"], "trainer": {"accelerator": "cpu"}})


def weights_of(path):
    return torch.load(path, weights_only=True)


def test_what_a_run_was_made_of(trained):
    (start,) = json.loads((trained / "run.json").read_text())["starts"]
    assert start["torch"] == torch.__version__
    assert start["data"]["train"]["images"] == 8
    assert len(start["data"]["val"]["sha256"]) == 64


@pytest.mark.parametrize("kind", ["ema", "mean"])
def test_averaged_weights_are_what_is_saved(run, tmp_path, monkeypatch, kind):
    steps = []
    end = DetectionModule.on_before_zero_grad

    def spy(self, optimizer):
        steps.append({name: value.clone() for name, value in self.state_dict().items()})
        return end(self, optimizer)

    monkeypatch.setattr(DetectionModule, "on_before_zero_grad", spy)
    options = ("--run.average", f"{{kind: {kind}, decay: 0.5, start: 0.5}}", "--run.pictures", "0")
    assert run("fit", "--run.folder", "out", *options) == 0
    saved = weights_of(tmp_path / "out/checkpoints/best.ckpt")
    assert "current_model_state" in saved
    name = "model.box_head.logits.weight"
    # Four steps; the average begins with the weights after the third and takes in the fourth.
    third, fourth = steps[3][name], saved["current_model_state"][name]
    assert not torch.equal(third, fourth)
    assert torch.allclose(saved["state_dict"][name], (third + fourth) / 2, atol=1e-7)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_no_gradients_are_held_through_the_next_forward_pass(run, monkeypatch, accumulated):
    held, step = [], DetectionModule.training_step

    def watched(self, batch, batch_idx):
        held.append(any(p.grad is not None for p in self.parameters()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DetectionModule, "training_step", watched)
    options = ("--trainer.accumulate_grad_batches", str(accumulated), "--trainer.limit_val_batches", "0")
    assert run("fit", *options, "--run.folder", "out") == 0
    assert held == [False] * 4 if accumulated == 1 else held == [False, True] * 4


def test_an_average_is_resumed_to_the_same_weights(run, tmp_path, monkeypatch):
    options = ("--run.average", "{decay: 0.9}", "--model.schedule.length", "2", "--run.pictures", "0")
    assert run("fit", "--run.folder", "whole", *options) == 0
    step = DetectionModule.training_step

    def stop(self, batch, batch_idx):
        if self.trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionModule, "training_step", stop)
        assert run("fit", "--run.folder", "parts", *options) == 143
    assert run("fit", "--run.folder", "parts", "--resume", "auto", *options) == 0
    whole, parts = (weights_of(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "parts"))
    assert all(torch.equal(whole["state_dict"][name], parts["state_dict"][name]) for name in whole["state_dict"])


@pytest.fixture
def _not_deterministic_for_others():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_not_deterministic_for_others")
def test_strict_runs_agree_to_the_last_bit_also_saved_in_the_background(run, tmp_path):
    plain = ("--deterministic", "strict", "--run.pictures", "0")
    assert run("fit", "--run.folder", "one", *plain) == 0
    assert run("fit", "--run.folder", "two", *plain, "--run.save_in_background", "true") == 0
    one, two = (weights_of(tmp_path / name / "checkpoints/last.ckpt")["state_dict"] for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_cannot_be_strict_is_named():
    error = RuntimeError("scatter_cuda does not have a deterministic implementation, but you set ...")
    assert told(error) == (
        "--deterministic strict: scatter_cuda cannot be computed alike twice on this device; use seeded",
        2,
    )
    with pytest.raises(InputError, match="must be strict or seeded"):
        complete(["fit", "--deterministic", "very"])
    assert complete(["fit", "--deterministic=seeded"]) == ["fit", "--trainer.deterministic=false"]


def test_frozen_parts_are_bit_equal_after_training_and_the_others_are_not(run, tmp_path, capsys):
    torch.manual_seed(0)
    whole = ResNet(VARIANTS["resnet10"])
    torch.save(whole.state_dict(), tmp_path / "start.pth")
    options = ["--model.backbone.weights", str(tmp_path / "start.pth"), "--model.backbone.norm", "batch"]
    options += ["--model.backbone.freeze", "[stem,layer1,layer3]", "--model.optimizer.layer_decay", "0.8"]
    assert run("fit", *options, "--run.folder", "mine") == 0
    assert "layer1" in capsys.readouterr().out
    after = load_model("mine/checkpoints/last.ckpt")[0].backbone.state_dict()
    frozen = ("conv1.", "bn1.", "layer1.", "layer3.")
    for name, value in whole.state_dict().items():  # parameters and buffers
        assert torch.equal(after[name], value) == name.startswith(frozen), name


def test_a_layer_decay_above_one_is_one_line(run, capsys):
    assert run("fit", "--model.optimizer.layer_decay", "2") == 2
    assert "above 0 and at most 1" in capsys.readouterr().err


@pytest.mark.parametrize(("limit", "images"), [("1", 1), ("2", 2), ("1.0", 4), ("0.5", 2)])
def test_a_whole_number_limits_batches_and_a_fraction_a_share(run, monkeypatch, limit, images):
    """Without the order that command.py restores, 1 would be parsed as 1.0, and all four images be evaluated."""
    seen = []
    step = DetectionModule.validation_step
    monkeypatch.setattr(
        DetectionModule, "validation_step", lambda self, batch, i: seen.extend(batch.image_ids) or step(self, batch, i)
    )
    assert run("fit", "--trainer.limit_val_batches", limit, "--trainer.limit_train_batches", "1") == 0
    assert len(seen) == images


@pytest.mark.slow
def test_the_learning_rate_finder_leaves_the_warm_up(run, monkeypatch):
    """The first step has the rate that the schedule gives it, of what was found, and not all of it."""
    rates = []
    step = DetectionModule.training_step

    def spy(self, batch, index):
        found = self.optimizer_config.lr * self._lr_scale
        rates.append((found, self.trainer.optimizers[0].param_groups[0]["lr"]))
        return step(self, batch, index)

    finder = {"class_path": "lightning.pytorch.callbacks.LearningRateFinder"}
    finder["init_args"] = {"num_training_steps": 20, "max_lr": 0.1}
    monkeypatch.setattr(DetectionModule, "training_step", spy)
    warm = ("--model.schedule.length", "10", "--model.schedule.warmup", "100")  # a tenth: 4 of 40 steps
    assert run("fit", *warm, "--trainer.limit_val_batches", "0", "--trainer.callbacks", json.dumps(finder)) == 0
    ours = rates[-40:]
    found = ours[0][0]
    assert found != pytest.approx(0.0025)  # something else than what was given
    expected = [found * (0.001 + 0.999 * i / 4) for i in range(4)] + [found]
    assert [rate for _, rate in ours[:5]] == pytest.approx(expected)


def test_a_run_does_not_write_over_another(trained, run, capsys):
    before = (trained / "checkpoints/last.ckpt").read_bytes()
    assert run("fit", "--run.folder", str(trained)) == 2
    assert "go on with --resume auto, or take another folder" in capsys.readouterr().err
    assert (trained / "checkpoints/last.ckpt").read_bytes() == before


@pytest.mark.parametrize("rank", [0, 1])
def test_of_two_ranks_the_first_alone_keeps_the_old_curve(run, tmp_path, monkeypatch, rank):
    """Both of them at it, the second may find the file gone between looking and moving."""
    torchrun = {"TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "GROUP_RANK": "0"}
    torchrun |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    for module in (lightning.fabric.utilities.rank_zero, lightning.pytorch.utilities.rank_zero):
        monkeypatch.setattr(module.rank_zero_only, "rank", rank)  # Lightning sets it; put back at the end
    monkeypatch.setattr(lightning.Trainer, "fit", lambda *args, **kwargs: None)
    (tmp_path / "metrics.csv").write_text("old")
    assert run("fit", "--run.folder", str(tmp_path), "--trainer.devices", "2", "--trainer.strategy", "ddp") == 0
    assert {path.name for path in tmp_path.glob("*.csv")} == {"metrics.csv" if rank else "metrics_0.csv"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--trainer.strategy", "fsdp", "--run.average", "{kind: ema}"), "does not go with run.average"),
        (("--trainer.strategy", "fsdp", "--model.compile", "true"), "does not go with model.compile"),
        (("--trainer.strategy", "fsdp", "--trainer.sync_batchnorm", "true"), "model.backbone.norm sync"),
        (("--trainer.strategy", "fsdp_cpu_offload"), "use --trainer.strategy fsdp"),
        (("--trainer.strategy", "fsdp", "--trainer.precision", "16-mixed"), "bf16-mixed"),
    ],
)
def test_what_sharding_cannot_do_is_told(run, capsys, options, told):
    assert run("fit", *options) == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_the_batch_size_finder_tries_our_batches(run, tmp_path):
    finder = {"class_path": "lightning.pytorch.callbacks.BatchSizeFinder"}
    finder["init_args"] = {"max_trials": 2, "steps_per_trial": 2}
    assert run("fit", "--run.folder", "out", "--trainer.callbacks", json.dumps(finder)) == 0
    assert weights_of(tmp_path / "out/checkpoints/last.ckpt")["global_step"] == 2  # 8 images, 4 at a time

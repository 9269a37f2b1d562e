"""The command line end to end, in this process, on a few drawn images."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from backbones.resnet import VARIANTS, ResNet
from detection.checkpoint import load_model
from detection.cli import main
from detection.engine.module import DetectionModule
from detection.run_files import evaluations, read_table

ROOT = Path(__file__).resolve().parents[3]


def test_a_run_leaves_its_files(trained):
    names = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert names == {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "classes.txt",
        "config.yaml",
        "images/train_batch.jpg",
        "images/val_epoch_001.jpg",
        "log.txt",
        "model.safetensors",
        "run.json",
        "summary.md",
        "train.csv",
        "val.csv",
    }


def test_what_is_logged(trained):
    rows, (evaluation,) = read_table(trained / "train.csv"), read_table(trained / "val.csv")
    losses = {"loss", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    statistics = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}
    parts = ("data", "transfer", "dense", "proposals", "box_head", "mask_head", "backward", "optimizer")
    shares = {f"share_{part}" for part in parts}
    others = {"lr", "images_per_second", "data_wait"}
    assert rows[1].keys() - {"epoch", "step"} == {f"train/{name}" for name in losses | shares | others}
    sums = [sum(row[f"train/{name}"] for name in shares) for row in rows[1:]]
    assert sums == pytest.approx([1, 1, 1], rel=1e-5)  # the first step is not measured
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert evaluation.keys() - {"epoch", "step"} == {f"val/{name}" for name in losses} | {
        "val/AP",
        *(f"val/{kind}/{name}" for kind in ("bbox", "segm") for name in statistics),
    }
    assert (evaluation["epoch"], evaluation["step"]) == (1, 4)
    assert evaluation["val/AP"] == evaluation["val/segm/AP"]
    first = rows[0]
    # lr 0.02 for 16 images, 2 here; 4 steps are too few for a warm-up
    assert float(first["train/lr"]) == pytest.approx(0.02 * 2 / 16)
    assert float(first["train/loss"]) == pytest.approx(
        sum(float(first[f"train/{n}"]) for n in losses - {"loss"}), rel=1e-5
    )


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
    options = ["--data.root", str(shapes), "--config", data_alone(trained, tmp_path / "data.yaml")]
    options += ["--trainer.precision", "32-true"]  # as it was trained, whatever pays on this processor
    checkpoint = str(trained / "checkpoints" / "last.ckpt")
    folder = tmp_path / "out"
    assert main(["validate", *options, "--ckpt_path", checkpoint, "--run.folder", str(folder)]) == 0
    ((before,), (now,)) = (evaluations(f) for f in (trained, folder))
    names = [name for name in now if name.startswith("val/")]
    assert [now[name] for name in names] == pytest.approx([before[name] for name in names], rel=0, nan_ok=True)
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
    assert "test/bbox/AP" in read_table(tmp_path / "tested" / "test.csv")[0]


@pytest.mark.parametrize(
    "absent", [["annotations"], pytest.param(["annotations", "categories"], marks=pytest.mark.slow)]
)
def test_a_file_of_images_alone_is_predicted_like_one_with_annotations(trained, run, shapes, tmp_path, capsys, absent):
    content = json.loads((shapes / "annotations/instances_val.json").read_text())
    (tmp_path / "info.json").write_text(json.dumps({key: content[key] for key in content if key not in absent}))
    test = f"{{images: val, annotations: {tmp_path / 'info.json'}}}"
    checkpoint = ("--ckpt_path", str(trained / "checkpoints" / "last.ckpt"))
    assert run("predict", *checkpoint, "--run.folder", "whole") == 0
    assert run("predict", *checkpoint, "--data.test", test, "--run.folder", "alone") == 0
    for kind in ("bbox", "segm"):
        whole, alone = ((tmp_path / f / f"results_{kind}.json").read_bytes() for f in ("whole", "alone"))
        assert whole == alone
    assert run("test", *checkpoint, "--data.test", test, "--run.folder", "scored") == 2
    assert "has no list 'annotations'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--data.workers", "1", "--model.schedule.unit", "iterations"),
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


@pytest.mark.slow
def test_training_ends_with_a_validation_in_the_middle_of_an_epoch(run, tmp_path):
    assert run("fit", "--trainer.max_steps", "6", "--run.folder", "out", "--model.mask_head", "null") == 0
    lines = evaluations(tmp_path / "out")
    assert [line["step"] for line in lines] == [4, 6]
    assert not any("segm" in name for name in lines[0])


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
        metrics += evaluations(folder)
    one, two = metrics
    precision = [name for name in one if "/A" in name]
    assert [one[name] for name in precision] == pytest.approx([two[name] for name in precision], rel=0, nan_ok=True)
    losses = [name for name in one if "loss" in name]
    # Float32, added up in another order.
    assert [one[name] for name in losses] == pytest.approx([two[name] for name in losses], rel=1e-6)


def data_alone(trained, path):
    """The data settings of a run, as a config file: its path."""
    saved = yaml.safe_load((trained / "config.yaml").read_text())
    path.write_text(yaml.safe_dump({"data": saved["data"], "trainer": {"accelerator": "cpu"}}))
    return str(path)


def weights_of(path):
    return torch.load(path, weights_only=True)


def test_what_a_run_was_made_of(trained):
    (start,) = json.loads((trained / "run.json").read_text())["starts"]
    assert start["versions"]["torch"] == torch.__version__
    assert start["data"]["train"]["images"] == 8
    assert len(start["data"]["val"]["sha256"]) == 64


@pytest.mark.parametrize("accumulated", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_no_gradients_are_held_through_the_next_forward_pass(run, monkeypatch, accumulated):
    held, step = [], DetectionModule.training_step

    def watched(self, batch, batch_idx):
        held.append(any(p.grad is not None for p in self.parameters()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DetectionModule, "training_step", watched)
    options = ("--trainer.accumulate_grad_batches", str(accumulated), "--trainer.limit_val_batches", "0")
    assert run("fit", *options, "--run.folder", "out") == 0
    assert held == [False] * 4 if accumulated == 1 else held == [False, True] * 4


@pytest.fixture
def _not_deterministic_for_others():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.usefixtures("_not_deterministic_for_others")
def test_strict_runs_agree_to_the_last_bit_also_saved_in_the_background(run, tmp_path):
    plain = ("--deterministic", "strict", "--run.pictures", "0")
    assert run("fit", "--run.folder", "one", *plain) == 0
    assert run("fit", "--run.folder", "two", *plain, "--run.save_in_background", "true") == 0
    one, two = (weights_of(tmp_path / name / "checkpoints/last.ckpt")["state_dict"] for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_frozen_parts_are_bit_equal_after_training_and_the_others_are_not(run, tmp_path, capsys):
    torch.manual_seed(0)
    whole = ResNet(VARIANTS["resnet10"], width=8)
    torch.save(whole.state_dict(), tmp_path / "start.pth")
    options = ["--model.backbone.weights", str(tmp_path / "start.pth"), "--model.backbone.norm", "batch"]
    options += ["--model.backbone.freeze", "[stem,layer1,layer3]", "--model.optimizer.layer_decay", "0.8"]
    assert run("fit", *options, "--run.folder", "mine") == 0
    assert "layer1" in capsys.readouterr().out
    after = load_model("mine/checkpoints/last.ckpt")[0].backbone.state_dict()
    frozen = ("conv1.", "bn1.", "layer1.", "layer3.")
    for name, value in whole.state_dict().items():  # parameters and buffers
        assert torch.equal(after[name], value) == name.startswith(frozen), name


@pytest.mark.parametrize(
    ("limit", "images"),
    [
        pytest.param("1", 1, marks=pytest.mark.slow),
        ("2", 2),
        pytest.param("1.0", 4, marks=pytest.mark.slow),
        pytest.param("0.5", 2, marks=pytest.mark.slow),
    ],
)
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


@pytest.mark.slow
def test_what_was_not_begun_leaves_the_record_of_a_run_as_it_was(run, tmp_path, capsys):
    assert run("fit", "--run.folder", "out") == 0
    names = ("config.yaml", "train.csv", "val.csv", "run.json", "log.txt")
    files = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    for options, message in (
        (("--model.fpn.channels", "8"), "instead of"),  # weights that do not fit
        (("--model.optimizer.lr", "0.5"), "model.optimizer.lr is 0.5, and 0.02 in the run that is resumed"),
        (("--model.optimizer.name", "adamw"), "model.optimizer.name is adamw, and sgd in the run"),
        (("--model.backbone.freeze", "2"), "model.backbone.freeze is 2, and 0 in the run"),
    ):
        assert run("fit", "--run.folder", "out", "--resume", "auto", *options) == 2
        assert message in capsys.readouterr().err
        assert files == {name: (tmp_path / "out" / name).read_bytes() for name in files}
    assert run("fit", "--run.folder", "out", "--resume", "auto") == 0  # it has ended, and trains no more
    assert {path.name for path in (tmp_path / "out").glob("*.csv")} == {"train.csv", "val.csv"}


@pytest.mark.slow
def test_the_saved_config_begins_the_run_anew(run, tmp_path):
    assert run("fit", "--run.folder", "first") == 0
    weights = str(tmp_path / "first/checkpoints/last.ckpt")
    assert run("fit", "--run.folder", "second", "--model.weights", weights) == 0
    again = ("--run.folder", "second", "--resume", "auto", "--model.weights", weights)
    assert run("fit", *again, "--model.schedule.length", "2") == 0
    config = yaml.safe_load((tmp_path / "second/config.yaml").read_text())
    assert config["ckpt_path"] is None
    assert config["model"]["weights"] == weights


def test_where_validation_has_no_masks_the_best_is_that_of_the_boxes(run, shapes, tmp_path):
    content = json.loads((shapes / "annotations/instances_val.json").read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    (tmp_path / "val.json").write_text(json.dumps(content))
    options = ("--data.val.annotations", str(tmp_path / "val.json"), "--data.allow_outside_root", "true")
    assert run("fit", "--run.folder", "out", *options) == 0
    (metrics,) = evaluations(tmp_path / "out")
    assert math.isnan(metrics["val/segm/AP"])
    assert metrics["val/AP"] == metrics["val/bbox/AP"]  # NaN would not be equal


@pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
def test_a_detector_that_has_learned_nothing_is_not_evaluated(run, capsys, subcommand):
    assert run(subcommand) == 2
    assert f"{subcommand} needs a detector: --ckpt_path CHECKPOINT, or --model.weights" in capsys.readouterr().err


def test_evaluating_a_run_leaves_its_config(run, trained):
    before = (trained / "config.yaml").read_bytes()
    checkpoint = str(trained / "checkpoints/last.ckpt")
    assert run("validate", "--config", str(trained / "config.yaml"), "--ckpt_path", checkpoint) == 0
    assert (trained / "config.yaml").read_bytes() == before


@pytest.mark.slow
def test_the_batch_size_finder_tries_our_batches(run, tmp_path):
    finder = {"class_path": "lightning.pytorch.callbacks.BatchSizeFinder"}
    finder["init_args"] = {"max_trials": 2, "steps_per_trial": 2}
    assert run("fit", "--run.folder", "out", "--trainer.callbacks", json.dumps(finder)) == 0
    assert weights_of(tmp_path / "out/checkpoints/last.ckpt")["global_step"] == 2  # 8 images, 4 at a time

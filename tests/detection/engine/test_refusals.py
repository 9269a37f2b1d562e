"""Errors of the command line, and their messages."""

import json

import pytest

from detection.engine.errors import user_message
from detection.engine.module import DetectionModule


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
        ("--config augment.yaml", "no option height"),
        ("--trainer.accumulate_grad_batches 0", "accumulate_grad_batches 0 must be at least 1"),
        ("--ckpt_path gone.ckpt", "gone.ckpt: no such checkpoint"),
        ("--model.backbone.norm frozen", "norm frozen would keep random values"),
        ("--model.backbone.freeze 1", "freeze 1 would keep random values"),
        ("--config mask_rcnn_r50_fpn_1x_coco --model.backbone.weights null", "norm frozen and freeze 2 would keep"),
    ],
)
def test_mistakes_are_told_before_any_data_are_read(run, tmp_path, capsys, monkeypatch, options, expected):
    def read(*_):
        raise AssertionError("data were read")

    monkeypatch.setattr("detection.engine.splits.load_annotations", read)
    (tmp_path / "twice.yaml").write_text("model:\n  optimizer: {lr: 0.1}\n  optimizer: {lr: 0.2}\n")
    (tmp_path / "unknown.yaml").write_text("model:\n  optimiser: {lr: 0.1}\n")
    augment = "{class_path: albumentations.RandomResizedCrop, init_args: {height: 8}}"
    (tmp_path / "augment.yaml").write_text(f"data:\n  augment:\n  - {augment}\n")
    assert run("fit", *options.split()) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error[error.index("error:") :].splitlines()) < 10
    assert not (tmp_path / "runs").exists()


def test_a_layer_decay_above_one_is_one_line(run, capsys):
    assert run("fit", "--model.optimizer.layer_decay", "2") == 2
    assert "above 0 and at most 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--trainer.strategy", "fsdp", "--run.average", "{kind: ema}"), "does not work with run.average"),
        (("--trainer.strategy", "fsdp", "--model.compile", "true"), "does not work with model.compile"),
        (("--trainer.strategy", "fsdp", "--trainer.sync_batchnorm", "true"), "model.backbone.norm sync"),
        (("--trainer.strategy", "fsdp_cpu_offload"), "use --trainer.strategy fsdp"),
        (("--trainer.strategy", "fsdp", "--trainer.precision", "16-mixed"), "bf16-mixed"),
    ],
)
def test_what_sharding_cannot_do_is_told(run, capsys, options, told):
    assert run("fit", *options) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--trainer.precision", "bf16-true"), "use bf16-mixed"),
        (("--trainer.precision", "16-true"), "use 16-mixed"),
        (("--model.compile", "true", "--model.backbone.norm", "sync"), "norms that are synchronised"),
        (("--model.compile", "true", "--model.fpn.norm", "sync"), "norms that are synchronised"),
        (("--model.compile", "graphs", "--trainer.sync_batchnorm", "true"), "norms that are synchronised"),
    ],
)
def test_what_lightning_would_do_wrong_or_late_is_refused(run, capsys, options, told):
    assert run("fit", *options) == 2
    assert told in capsys.readouterr().err


def test_what_cannot_be_strict_is_named():
    error = RuntimeError("scatter_cuda does not have a deterministic implementation, but you set ...")
    assert user_message(error) == (
        "--deterministic strict: scatter_cuda has no deterministic form on this device; use seeded",
        2,
    )


@pytest.mark.parametrize("option", ["--deterministic very", "--deterministic=very"])
def test_another_word_for_deterministic_is_refused(run, capsys, option):
    assert run("fit", *option.split()) == 2
    assert capsys.readouterr().err == "error: --deterministic very: must be strict or seeded\n"


def test_a_run_does_not_write_over_another(trained, run, capsys):
    before = (trained / "checkpoints/last.ckpt").read_bytes()
    assert run("fit", "--run.folder", str(trained)) == 2
    assert "continue with --resume auto, or use another folder" in capsys.readouterr().err
    assert (trained / "checkpoints/last.ckpt").read_bytes() == before


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

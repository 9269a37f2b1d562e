import pytest

from detection.cli import main
from detection.engine.config_errors import explain
from detection.engine.configs import names_of_configs, read_config
from detection.engine.early_options import complete
from detection.engine.hints import OPTIONS, SUBCOMMANDS, nearest, nearest_config, nearest_subcommand


@pytest.fixture(scope="module")
def options():
    """All options of ``rcnn fit``."""
    from lightning.pytorch import Trainer

    from detection.engine.datamodule import CocoDataModule
    from detection.engine.module import DetectionModule
    from detection.engine.parser import STRICT, Parser
    from detection.engine.run import RunConfig

    parser = Parser(**STRICT)
    parser.add_lightning_class_args(DetectionModule, "model")
    parser.add_lightning_class_args(CocoDataModule, "data")
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_class_arguments(RunConfig, "run")
    return ["help", "config", "seed_everything", "ckpt_path", *(action.dest for action in parser._actions)]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("learning_rate", "model.optimizer.lr"),
        ("learning-rate", "model.optimizer.lr"),
        ("lerning_rate", "model.optimizer.lr"),
        ("model.learning_rate", "model.optimizer.lr"),
        ("model.optimizer.learning_rate", "model.optimizer.lr"),
        ("lr", "model.optimizer.lr"),
        ("LR", "model.optimizer.lr"),
        ("optimizer.lr", "model.optimizer.lr"),
        ("base_lr", "model.optimizer.lr"),
        ("lr0", "model.optimizer.lr"),
        ("epochs", "model.schedule.length"),
        ("epoch", "model.schedule.length"),
        ("num_epochs", "model.schedule.length"),
        ("max-epochs", "trainer.max_epochs"),
        ("max_epochs", "trainer.max_epochs"),
        ("trainer.max_epoch", "trainer.max_epochs"),
        ("trainer.epochs", "model.schedule.length"),
        ("max_iter", "model.schedule.length"),
        ("steps", "trainer.max_steps"),
        ("batch-size", "data.batch_size"),
        ("batch_size", "data.batch_size"),
        ("batchsize", "data.batch_size"),
        ("bs", "data.batch_size"),
        ("model.batch_size", "data.batch_size"),
        ("data.batch-size", "data.batch_size"),
        ("num_workers", "data.workers"),
        ("num-workers", "data.workers"),
        ("weight_decay", "model.optimizer.weight_decay"),
        ("weight_decy", "model.optimizer.weight_decay"),
        ("wd", "model.optimizer.weight_decay"),
        ("momentum", "model.optimizer.momentum"),
        ("imgsz", "data.short_side"),
        ("image_size", "data.short_side"),
        ("max_size", "data.long_side"),
        ("gpus", "trainer.devices"),
        ("device", "trainer.accelerator"),
        ("devices", "trainer.devices"),
        ("precision", "trainer.precision"),
        ("fp16", "trainer.precision"),
        ("amp", "trainer.precision"),
        ("grad_clip", "trainer.gradient_clip_val"),
        ("seed", "seed_everything"),
        ("output_dir", "run.folder"),
        ("output-dir", "run.folder"),
        ("save_dir", "run.folder"),
        ("patience", "run.early_stopping"),
        ("pretrained", "model.weights"),
        ("checkpoint", "ckpt_path"),
        ("resume_from", "resume"),
        ("resum", "resume"),
        ("init_from", "init-from"),
        ("trust_code", "trust-code"),
        ("conf", "model.box_head.score_threshold"),
        ("score_thresh", "model.box_head.score_threshold"),
        ("max_det", "model.box_head.detections"),
        ("backbone", "model.backbone"),
        ("model.backbone.nam", "model.backbone.name"),
        ("modle.backbone.name", "model.backbone.name"),
        ("model.backbon.name", "model.backbone.name"),
        ("data.rot", "data.root"),
        ("dataset", "data.root"),
        ("data.short_sides", "data.short_side"),
        ("model.rpn.anchor.sizes", "model.rpn.anchors.sizes"),
        ("run.tensorbord", "run.tensorboard"),
        ("accumulate_grad_batchs", "trainer.accumulate_grad_batches"),
    ],
)
def test_a_wrong_option_is_told_the_right_one(options, given, meant):
    told = explain(f"unrecognized arguments: --{given} 1", options, [])
    assert told.startswith(f"no option {given}; did you mean {meant}")
    assert told[told.index("mean ") + 5 + len(meant)] in "? "


@pytest.mark.parametrize("word", ["qqqqqq", "zebra_crossing", "x"])
def test_what_nothing_is_near_gets_no_hint(options, word):
    assert nearest(word, options) == ""


def test_every_hint_of_the_table_is_an_option(options):
    for word, meant in OPTIONS.items():
        assert meant.split(" ")[0] in (*options, "resume"), word
        assert word == word.lower().replace("-", "_")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("faster_rcnn_resnet18", "faster_rcnn_r18_fpn_1x_coco"),
        ("faster_rcnn_resnet50", "faster_rcnn_r50_fpn_1x_coco"),
        ("mask_rcnn_resnet101", "mask_rcnn_r101_fpn_1x_coco"),
        ("mask_rcnn_r50", "mask_rcnn_r50_fpn_1x_coco"),
        ("mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn_1x_coco"),
        ("maskrcnn_resnet50_fpn", "mask_rcnn_r50_fpn_1x_coco"),
        ("fasterrcnn_resnet50_fpn", "faster_rcnn_r50_fpn_1x_coco"),
        ("Mask-RCNN-R50-FPN", "mask_rcnn_r50_fpn_1x_coco"),
        ("mask_rcnn_r50_fnp_1x_coco", "mask_rcnn_r50_fpn_1x_coco"),
        ("mask_rcnn_R_50_FPN_3x", "mask_rcnn_r50_fpn_3x_coco"),
        ("mask_rcnn_resnext101_32x8d_fpn_3x", "mask_rcnn_x101_32x8d_fpn_3x_coco"),
        ("faster_rcnn_wide_resnet50_2", "faster_rcnn_wide_r50_2_fpn_1x_coco"),
        ("nucleus", "nuclei"),
    ],
)
def test_a_wrong_config_is_told_the_right_one(given, meant):
    assert nearest_config(given, names_of_configs()) == f"; did you mean {meant}?"
    with pytest.raises(FileNotFoundError, match=f"did you mean {meant}"):
        read_config(given)


def test_a_url_is_no_config():
    with pytest.raises(FileNotFoundError, match="a URL; download the file"):
        read_config("https://x.org/a.yaml")


@pytest.mark.parametrize(
    ("given", "meant"),
    [*SUBCOMMANDS.items(), ("validat", "validate"), ("valid", "validate"), ("fitt", "fit"), ("Test", "test")],
)
def test_a_wrong_subcommand_is_told_the_right_one(given, meant):
    assert nearest_subcommand(given, ["fit", "validate", "test", "predict"]) == f"; did you mean {meant}?"


def test_a_wrong_subcommand_ends_in_a_line(capsys):
    assert main(["evaluate", "--config", "x"]) == 2
    told = capsys.readouterr().err
    assert "invalid choice: 'evaluate'" in told
    assert "did you mean validate?" in told


def test_train_is_fit():
    assert complete(["train", "--config", "a.yaml"]) == ["fit", "--config", "a.yaml"]

"""The short options of ``rcnn train`` and ``rcnn validate`` set the right settings."""

import json

import pytest

from detection.commands import train
from detection.commands.main import main, parse, parser_of
from detection.commands.settings import evaluation_settings
from detection.shapes import write_shapes


def settings(*given, command="train"):
    """The settings that a line stands for, as pairs; of an option that comes twice, the last."""
    options = parse(parser_of(command), list(map(str, given)), settings=True)
    words = train.settings(options) if command == "train" else evaluation_settings(options, "val")
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), train=4, val=2, size=(64, 96))


def test_short_options():
    found = settings(
        "mask_rcnn_r50_fpn_1x_coco", "--output", "runs/x", "--batch", 4, "--workers", 2, "--size", 480, 800,
        "--seed", 7, "--device", "cuda:1", "--precision", "bf16", "--weights", "imagenet", "--deterministic", "strict",
    )  # fmt: skip
    assert found == {
        "--config": "mask_rcnn_r50_fpn_1x_coco",
        "--run.folder": "runs/x",
        "--data.batch_size": "4",
        "--data.workers": "2",
        "--data.short_side": "480",
        "--data.long_side": "800",
        "--seed_everything": "7",
        "--trainer.accelerator": "gpu",
        "--trainer.devices": "[1]",
        "--trainer.precision": "bf16-mixed",
        "--model.backbone.weights": "imagenet",
        "--deterministic": "strict",
    }


def test_epochs_move_the_milestones_with_them():
    found = settings("mask_rcnn_r50_fpn_1x_coco", "--epochs", 24)
    assert found["--model.schedule.unit"] == "epochs"
    assert found["--model.schedule.length"] == "24"
    assert json.loads(found["--model.schedule.milestones"]) == [16.0, 21.333]  # two thirds, eight ninths


def test_a_learning_rate_is_meant_at_the_batch_of_the_run():
    found = settings("mask_rcnn_r50_fpn_1x_coco", "--lr", 0.01, "--batch", 4)
    assert (found["--model.optimizer.lr"], found["--model.schedule.reference_batch"]) == ("0.01", "4")
    assert settings("mask_rcnn_r50_fpn_1x_coco", "--lr", 0.01)["--model.schedule.reference_batch"] == "16"


def test_settings_of_the_user_come_last_and_win():
    options = parse(parser_of("train"), ["demo", "--data.batch_size", "3", "--batch", "4"], settings=True)
    words = train.settings(options)
    assert words.index("--data.batch_size") < len(words) - 2
    assert words[-2:] == ["--data.batch_size", "3"]


def test_weights_of_a_detector():
    assert settings("demo", "--weights", "torchvision:maskrcnn_resnet50_fpn_v2")["--model.weights"].startswith("torch")


def test_resume_takes_the_config_of_the_run(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    found = settings("--resume", run)
    assert found == {"--config": str(run / "config.yaml"), "--run.folder": str(run), "--resume": "auto"}
    assert settings("--output", run, "--resume") == found


def test_data_in_a_folder_are_found_and_choose_the_config(shapes, capsys):
    found = settings("--data", shapes)
    assert found["--config"] == "mask_rcnn_r50_fpn_1x_coco"
    assert json.loads(found["--data.train"])["annotations"].endswith("instances_train.json")
    assert json.loads(found["--data.val"])["images"].endswith("val")
    assert settings("demo", "--data", shapes)["--config"] == "demo"


def test_negative_numbers_are_values_of_the_option_before_them():
    options = parse(parser_of("train"), ["demo", "--model.rpn.nms_threshold", "-1"], settings=True)
    assert options.rest == ["--model.rpn.nms_threshold", "-1"]


def test_a_wrong_number_of_epochs_is_one_line(capsys):
    assert main(["train", "demo", "--epochs", "0"]) == 2
    assert capsys.readouterr().err == "error: --epochs 0: must be at least 1\n"


def test_validate_takes_a_run_and_its_config(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("best", "last"):
        (run / "checkpoints" / f"{name}.ckpt").write_bytes(b"")
    (run / "config.yaml").write_text("{}")
    expected = {"--config": str(run / "config.yaml"), "--ckpt_path": str(run / "checkpoints/best.ckpt")}
    assert settings(run, command="validate") == expected
    assert settings(run / "checkpoints/last.ckpt", "--batch", 2, command="validate") == {
        "--config": str(run / "config.yaml"),
        "--ckpt_path": str(run / "checkpoints/last.ckpt"),
        "--data.eval_batch_size": "2",
    }
    assert settings("torchvision:maskrcnn_resnet50_fpn", command="validate") == {
        "--model.weights": "torchvision:maskrcnn_resnet50_fpn"
    }


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("--epohcs", "--epochs"),
        ("--learning-rate", "--lr"),
        ("--imgsz=640", "--size"),
        ("--batch_size", "--batch"),
        ("--patience", "--run.early_stopping"),
    ],
)
def test_an_option_of_another_tool_is_told_before_anything_slow(wrong, right, capsys):
    assert main(["train", "demo", wrong, "3"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {wrong.split('=')[0]}: no such option; did you mean {right}?")
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("given", [["-c", "nuclei"], ["--config", "nuclei"], ["--config=nuclei"]])
def test_a_config_among_the_settings_is_the_config(given, shapes, tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    for others in (["--data", str(shapes)], ["--output", str(tmp_path)]):
        options = parse(parser_of("train"), [*others, *given], settings=True)
        words = train.settings(options)
        assert words[:2] == ["--config", "nuclei"]
        assert not {"-c", "--config", "--config=nuclei"} & {*words[2:]}


def test_epochs_follow_the_schedule_of_the_last_overlay():
    options = parse(parser_of("train"), ["mask_rcnn_r50_fpn_1x_coco", "--config", "schedules/3x"], settings=True)
    options.epochs = 27
    words = train.settings(options)
    assert json.loads(words[words.index("--model.schedule.milestones") + 1]) == [21.0, 25.0]


def test_options_override_every_config_wherever_it_stands(shapes):
    line = ["mask_rcnn_r50_fpn_1x_coco", "--data.flip", "0", "--data", str(shapes), "--epochs", "3"]
    words = train.settings(parse(parser_of("train"), [*line, "--config", "data/own", "-c", "sizes/640"], settings=True))
    assert words[:6] == ["--config", line[0], "--config", "data/own", "--config", "sizes/640"]
    assert words[-2:] == ["--data.flip", "0"]
    assert words[words.index("--model.schedule.length") + 1] == "3"


def test_a_config_of_the_user_replaces_that_of_the_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.ckpt").write_bytes(b"")
    (tmp_path / "config.yaml").write_text("{}")
    for given in (["-c", "demo"], ["--config=demo"]):
        options = parse(parser_of("validate"), [str(tmp_path), *given], settings=True)
        assert evaluation_settings(options, "val")[:2] == ["--config", "demo"]


def test_a_wrong_option_gets_the_nearest_of_the_command():
    for command, wrong, near in (("train", "--outpt", "--output"), ("train", "--hepl-all", "--help-all"),
                                 ("validate", "--devise", "--device")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{wrong}: no such option; did you mean {near}\\?"):
            settings(wrong, "x", command=command)
    with pytest.raises(ValueError, match=r"--qqqqqq: no such option; rcnn validate --help-all lists all settings"):
        settings("--qqqqqq", "x", command="validate")


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([[1, 2, 3, 4, 5, 6]], True),
        ({"size": [4, 4], "counts": "04"}, True),
        ({"size": [4, 4], "counts": [0, 16]}, True),
        ([], False),
        ({}, False),
        (None, False),
        ("", False),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_masks_are_noticed_without_parsing_the_file(tmp_path, segmentation, expected, indent):
    from detection.commands.training_settings import _has_masks

    said = {"note": '"segmentation": [[1, 2]]'}  # a text is no mask
    entries = [{"id": 1, "bbox": [0, 0, 1, 1]} | said, {"id": 2, "segmentation": segmentation}]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": [], "annotations": entries}, indent=indent))
    assert _has_masks(path) is expected
    path.write_text(json.dumps({"annotations": entries}, separators=(",", ":")))
    assert _has_masks(path) is expected


def test_the_annotations_are_not_parsed_before_the_training_reads_them(shapes, monkeypatch):
    from detection import documents

    parsed = []
    read = documents.read_json
    monkeypatch.setattr(documents, "read_json", lambda path, *rest, **how: (parsed.append(path), read(path, *rest))[1])
    assert settings("--data", shapes)["--config"] == "mask_rcnn_r50_fpn_1x_coco"
    assert parsed == []

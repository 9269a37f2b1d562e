"""A checkpoint is data: no tool imports a class that it names, unless the user names the class or trusts the file."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import detection
from backbones import BackboneConfig
from detection import checkpoint as checkpoints
from detection.categories import Categories
from detection.cli import main
from detection.convert.export import save_safetensors
from detection.convert.pretrained import load_pretrained
from detection.engine.early_options import complete
from detection.engine.errors import InputError
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from tests.support.commands import doctor
from tests.support.commands import evaluate as evaluate_tool
from tests.support.commands import export as export_tool
from tests.support.commands import predict as predict_tool

MODULE = """
import pathlib
pathlib.Path({marker!r}).touch()
from torch import nn
from backbones import Backbone
class Net(Backbone):
    channels, strides = (8, 8, 8, 8), (4, 8, 16, 32)
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(i, 8, 4, s, 1) for i, s in ((3, 4), (8, 2), (8, 2), (8, 2)))
    def stages(self):
        return list(self.convs)
    def forward(self, x):
        found = []
        for conv in self.convs:
            x = conv(nn.functional.pad(x, (0, 1, 0, 1)))
            found.append(x[..., : x.shape[-2], : x.shape[-1]])
        return tuple(found)
"""


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that is there once the module ``stranger`` has been imported."""
    path = tmp_path / "imported"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "stranger.py").write_text(MODULE.format(marker=str(path)))
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    yield path
    sys.modules.pop("stranger", None)


def forget(marker):
    """As if nothing had been imported so far."""
    sys.modules.pop("stranger", None)
    marker.unlink(missing_ok=True)


@pytest.fixture
def custom(marker, tmp_path):
    """A whole detector with the custom backbone ``stranger.Net``, as a checkpoint."""
    model = build_detector(2, BackboneConfig("stranger.Net"), fpn=FPNConfig(channels=8))
    model.categories = Categories(("circle", "square"), (3, 7))
    detection.save_model(model, tmp_path / "custom.ckpt")
    forget(marker)
    return tmp_path / "custom.ckpt"


@pytest.fixture
def data(tmp_path):
    """The options that name a data set of one image."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 96, 3), np.uint8))
    annotations = {
        "images": [{"id": 1, "file_name": "a.png", "height": 64, "width": 96}],
        "categories": [{"id": 3, "name": "circle"}, {"id": 7, "name": "square"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [8, 8, 30, 30], "area": 900, "iscrowd": 0}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(annotations))
    return [
        *("--data.root", str(tmp_path), "--data.workers", "0", "--data.batch_size", "1"),
        *(f"--data.{split}.{key}={value}" for split in ("train", "val")
          for key, value in (("images", "."), ("annotations", "coco.json"))),
        *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--run.folder", str(tmp_path / "run")),
        *("--data.short_side", "64", "--data.long_side", "96", "--run.pictures", "0"),
    ]  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "torchvision:", "detectron2:", "mmdetection:"])
def test_no_reader_imports_what_a_checkpoint_names(custom, marker, prefix):
    for read in (detection.load_model, checkpoints.load_model, load_pretrained):
        with pytest.raises(ValueError, match=r"custom\.ckpt") as error:
            read(f"{prefix}{custom}")
        assert len(str(error.value).splitlines()) == 1
    assert not marker.exists()


def test_the_line_says_how_to_trust_a_file(custom, marker):
    with pytest.raises(ValueError, match=r"custom\.ckpt: its backbone stranger\.Net would run code .* --trust-code"):
        detection.load_model(custom)
    assert detection.load_model(custom, trust_code=True).num_classes == 2
    assert checkpoints.load_model(custom, trust_code=True)[0].num_classes == 2
    assert marker.exists()


def test_no_safetensors_file_is_followed(custom, marker, tmp_path):
    save_safetensors(detection.load_model(custom, trust_code=True), tmp_path / "custom.safetensors")
    forget(marker)
    assert "rcnn" in str((tmp_path / "custom.safetensors").read_bytes()[:5000])
    assert load_file(tmp_path / "custom.safetensors")
    with pytest.raises(ValueError, match="would run code"):
        detection.load_model(tmp_path / "custom.safetensors")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["stranger.Net", "timm/hf-hub:a/b", "timm/local-dir:/tmp", "os.getcwd", "os.abort"])
def test_every_name_that_is_not_known_is_data(custom, marker, tmp_path, name):
    content = torch.load(custom, weights_only=True)
    content["rcnn"]["model"]["backbone"]["name"] = name
    torch.save(content, custom)
    with pytest.raises(ValueError, match="would run code"):
        detection.load_model(custom)
    assert not marker.exists()


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize("option", ["--ckpt_path", "--model.weights"])
def test_no_evaluation_imports_what_a_checkpoint_names(custom, marker, data, capsys, command, option):
    assert main([command, option, str(custom), *data]) == 2
    assert "its backbone stranger.Net would run code" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize("options", [["--init-from"], ["--model.weights"]])
def test_no_training_imports_what_its_weights_name(custom, marker, data, options, capsys):
    assert main(["fit", *options, str(custom), *data]) == 2
    assert "its backbone stranger.Net would run code" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize("auto", [False, True])
def test_no_resumed_training_imports_what_its_checkpoint_names(custom, marker, data, tmp_path, capsys, auto):
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(custom.read_bytes())
    (tmp_path / "run" / "config.yaml").write_text("model: {backbone: {name: stranger.Net}}")
    given = ["fit", "--resume", "auto" if auto else str(last), "--model.backbone.name", "resnet10", *data]
    assert main(given) == 2
    assert "last.ckpt" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize("file", ["custom.ckpt", "run"])
def test_no_tool_imports_what_a_checkpoint_names(custom, marker, data, tmp_path, file, capsys):
    if file == "run":
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        (tmp_path / "run" / "checkpoints" / "best.ckpt").write_bytes(custom.read_bytes())
        (tmp_path / "run" / "config.yaml").write_text("model: {backbone: {name: stranger.Net}}")
    source = str(tmp_path / file)
    output = str(tmp_path / "out")
    for tool, given in (
        (predict_tool, [source, str(tmp_path / "a.png"), "--output", output]),
        (evaluate_tool, [source, "--annotations", str(tmp_path / "coco.json"), "--images", str(tmp_path)]),
        (export_tool, [source, f"{output}.safetensors"]),
    ):
        with pytest.raises(SystemExit) as error:
            tool(given)
        assert error.value.code == 2
        assert "would run code" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.slow
def test_the_doctor_reads_no_weights(custom, marker, data):
    with pytest.raises(SystemExit):
        doctor([*data, "--model.weights", str(custom)])
    assert not marker.exists()


def test_a_tool_may_be_told_to_trust_a_file(custom, marker, tmp_path):
    export_tool([str(custom), str(tmp_path / "out.safetensors"), "--trust-code"])
    assert marker.exists()


def test_the_user_may_name_the_backbone_or_trust_the_file(custom, marker, tmp_path):
    named = ["validate", f"--ckpt_path={custom}", "--model.backbone.name", "stranger.Net"]
    assert complete(named)[1].startswith("--config={")
    assert '"backbone": {"name": "stranger.Net"' in complete(named)[1]
    (tmp_path / "mine.yaml").write_text("model: {backbone: {name: stranger.Net}}")
    (tmp_path / "more.yaml").write_text("model: {backbone: {norm: batch}}")
    configs = ["--config", str(tmp_path / "mine.yaml"), f"--config={tmp_path / 'more.yaml'}"]
    assert len(complete(["validate", *configs, f"--ckpt_path={custom}"])) == 6
    trusted = complete(["validate", f"--ckpt_path={custom}", "--trust-code"])
    assert trusted[2] == "--model.backbone.name=stranger.Net"
    assert complete(trusted) == trusted  # other processes of the run get the completed line
    with pytest.raises(InputError, match="would run code"):  # an inline config may be what a file said
        complete(["validate", '--config={"model": {"backbone": {"name": "stranger.Net"}}}', f"--ckpt_path={custom}"])
    assert not marker.exists()


def test_a_trusted_file_is_evaluated(custom, marker, data):
    assert main(["validate", "--ckpt_path", str(custom), "--trust-code", *data]) == 0
    assert marker.exists()


def test_class_paths_in_a_checkpoint_are_unknown_settings(custom, marker, capsys, data):
    content = torch.load(custom, weights_only=True)
    content["rcnn"]["model"]["backbone"]["name"] = "resnet10"
    content["rcnn"]["model"]["fpn"] = {"class_path": "stranger.Net", "init_args": {}}
    torch.save(content, custom)
    assert main(["validate", "--ckpt_path", str(custom), *data]) == 2
    assert "unknown setting class_path of FPNConfig" in capsys.readouterr().err
    assert not marker.exists()


def test_hyper_parameters_in_a_checkpoint_change_nothing(marker, data, tmp_path, monkeypatch):
    model = build_detector(2, BackboneConfig("resnet10"), fpn=FPNConfig(channels=8))
    detection.save_model(model, tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    for stranger in (
        {"backbone": {"name": "stranger.Net"}},
        {"_class_path": "stranger.Net", "_instantiator": "stranger.Net"},
        {"box_head": {"score_threshold": 0.9}},
    ):
        torch.save(
            {**content, "hyper_parameters": stranger, "datamodule_hyper_parameters": stranger}, tmp_path / "a.ckpt"
        )
        seen = []
        monkeypatch.setattr(
            "detection.engine.command.Command._run_subcommand", lambda self, name, seen=seen: seen.append(self.config)
        )
        assert main(["validate", "--ckpt_path", str(tmp_path / "a.ckpt"), *data]) == 0
        assert seen[0].validate.model.box_head.score_threshold == 0.05
        assert seen[0].validate.model.backbone.name == "resnet10"
    assert not marker.exists()


def test_lightnings_own_reader_is_not_offered(custom, marker):
    from detection.engine.datamodule import CocoDataModule
    from detection.engine.module import DetectionModule

    for kind in (DetectionModule, CocoDataModule):
        with pytest.raises(InputError, match="could run code of the file; use"):
            kind.load_from_checkpoint(str(custom))
    assert not marker.exists()


def test_a_safetensors_files_settings_are_checked(tmp_path):
    save_file({"model.w": torch.zeros(1)}, tmp_path / "a.safetensors", {"rcnn": "[" * 100_000})
    with pytest.raises(ValueError, match=r"a\.safetensors is incomplete"):
        detection.load_model(tmp_path / "a.safetensors")
    save_file({"model.w": torch.zeros(1)}, tmp_path / "a.safetensors", {"rcnn": "[1]"})
    with pytest.raises(ValueError, match="its entry rcnn is a list, not a mapping"):
        detection.load_model(tmp_path / "a.safetensors")

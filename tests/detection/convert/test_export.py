"""The files that remain after an export fails."""

import errno
import os

import pytest
import safetensors.torch
import torch

from backbones import BackboneConfig
from detection.commands.main import main
from detection.convert.export import FORMATS, export, save_safetensors, save_torchvision
from detection.convert.pretrained import load_pretrained
from detection.models.build import build_detector

CONFIGS = {"backbone": BackboneConfig("resnet18")}


@pytest.fixture(scope="module")
def model():
    return build_detector(2, **CONFIGS)


def write(path, model):
    if path.suffix == ".pth":
        save_torchvision(model, path)
    else:
        save_safetensors(model, path)


@pytest.mark.parametrize("name", [pytest.param("a.pth", marks=pytest.mark.slow), "a.safetensors"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, model, monkeypatch, name):
    write(tmp_path / name, model)
    before = (tmp_path / name).read_bytes()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails(_):
        raise full

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match=f"{name}: cannot be written .{full.strerror}.; the older file is intact$"):
        write(tmp_path / name, model)
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]
    load_pretrained(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_folder_that_does_not_exist_is_reported_in_a_line(tmp_path, model, name):
    (tmp_path / "file").touch()
    for folder in ("gone", "file"):
        with pytest.raises(OSError, match=rf"{folder}/{name}: cannot be written \([^\n]*\)$"):
            write(tmp_path / folder / name, model)


@pytest.mark.slow
@pytest.mark.parametrize("format", [None, *FORMATS])
def test_the_method_the_function_and_the_command_write_the_same_file(tmp_path, model, format):
    one = FORMATS[format or "safetensors"]
    model.save(tmp_path / "model.ckpt")
    names = [tmp_path / f"{name}{one.ending}" for name in ("method", "function", "command", "format")]
    assert model.export(names[0], format) == names[0]
    assert export(model, str(names[1]), format) == names[1]
    assert main(["export", str(tmp_path / "model.ckpt"), "-o", str(names[2])]) == 0
    words = ["--format", format] if format else []
    assert main(["export", str(tmp_path / "model.ckpt"), "-o", str(names[3]), *words]) == 0
    one.write(model, tmp_path / "expected")
    expected = content_of(tmp_path / "expected", one.ending)
    for name in names:
        found = content_of(name, one.ending)
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in found.items())


def content_of(path, ending):
    return torch.load(path) if ending == ".pth" else safetensors.torch.load(path.read_bytes())


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("a.onnx", None, r"a.onnx: the ending names no format; give one of safetensors \(.safetensors\), torchvision"),
        ("a.pth", "tflite", r"unknown format 'tflite'; give one of safetensors \(.safetensors\), torchvision \(.pth\)"),
        ("a.pth", "safetensors", "a.pth: the name of a safetensors file must end in .safetensors"),
    ],
)
def test_a_wrong_format_is_reported_before_anything_is_written(tmp_path, model, name, format, message):
    with pytest.raises(ValueError, match=message):
        model.export(tmp_path / name, format)
    assert not list(tmp_path.iterdir())

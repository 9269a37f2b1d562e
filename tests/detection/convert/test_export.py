"""What is left when a file for others cannot be written."""

import errno
import os

import pytest

from backbones import BackboneConfig
from detection.convert.export import save_safetensors, save_torchvision
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


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, model, monkeypatch, name):
    write(tmp_path / name, model)
    before = (tmp_path / name).read_bytes()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails(_):
        raise full

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match=f"{name}: cannot be written .{full.strerror}.; the older file is whole$"):
        write(tmp_path / name, model)
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]
    load_pretrained(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_folder_that_does_not_exist_is_told_in_a_line(tmp_path, model, name):
    (tmp_path / "file").touch()
    for folder in ("gone", "file"):
        with pytest.raises(OSError, match=rf"{folder}/{name}: cannot be written \([^\n]*\)$"):
            write(tmp_path / folder / name, model)

import errno
import os
import pickle
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from backbones import BackboneConfig
from detection import checkpoint as module
from detection.checkpoint import load_model, load_weights, read_checkpoint, save_model, write_checkpoint
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.rcnn import build_detector
from detection.models.rpn import RPNConfig
from detection.structures import Categories

CONFIGS = {
    "backbone": BackboneConfig("resnet10", norm="group"),
    "fpn": FPNConfig(channels=16),
    "rpn": RPNConfig(AnchorConfig(sizes=((8, 12), (16, 24), (32, 48), (64, 96), (128, 192))), proposals_test=20),
    "box_head": BoxHeadConfig(hidden=32, score_threshold=0.0, detections=5),
    "mask_head": MaskHeadConfig(convs=1, channels=16),
}


def build(num_classes=3, **changes):
    torch.manual_seed(0)
    model = build_detector(num_classes, **{**CONFIGS, **changes}).eval()
    model.categories = Categories(("cat", "dog", "bird")[:num_classes], (2, 5, 90)[:num_classes])
    model.test_size = (64, 96)
    return model


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.ckpt"
    save_model(path, build(), CONFIGS)
    return path


@torch.no_grad()
def test_a_loaded_model_answers_as_the_saved_one(saved):
    model, info = load_model(saved)
    images, sizes = torch.randint(0, 255, (1, 3, 64, 96), dtype=torch.uint8), torch.tensor([[60, 90]])
    for ours, theirs in zip(model(images, sizes), build()(images, sizes), strict=True):
        assert torch.equal(ours, theirs)
    assert model.categories == build().categories
    assert model.test_size == (64, 96)
    assert info["num_classes"] == 3
    assert not model.training


def test_configs_survive(saved):
    _, info = load_model(saved)
    assert module.restore_configs(info, saved) == CONFIGS


def test_without_masks(tmp_path):
    configs = CONFIGS | {"mask_head": None}
    save_model(tmp_path / "faster.ckpt", build(mask_head=None), configs)
    model, info = load_model(tmp_path / "faster.ckpt")
    assert not hasattr(model, "mask_head")
    assert info["model"]["mask_head"] is None


def test_settings_of_another_model_are_refused_at_saving(tmp_path):
    for configs in ({}, CONFIGS | {"mask_head": None}):
        with pytest.raises(ValueError, match=r"a\.ckpt: not written, as configs are not those") as error:
            save_model(tmp_path / "a.ckpt", build(), configs)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    torch.manual_seed(0)
    save_model(tmp_path / "b.ckpt", build_detector(2, BackboneConfig(weights=None)), {})  # all at its default
    load_model(tmp_path / "b.ckpt")


def test_weights_alone_are_told_how_to_be_saved(tmp_path):
    torch.save(build().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth: .* write it with detection\.checkpoint\.save_model"):
        load_model(tmp_path / "weights.pth")


def test_only_tensors_and_plain_values(saved):
    content = torch.load(saved, weights_only=True)
    plain = (str, int, float, bool, type(None))

    def check(value):
        if isinstance(value, dict):
            [check(inner) for inner in value.values()]
        elif isinstance(value, list):
            [check(inner) for inner in value]
        else:
            assert type(value) in plain, value

    check(content["rcnn"])


@pytest.mark.parametrize("fails", ["save", "fsync", "replace"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch, fails):
    before = saved.read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(*{"save": (torch, "save"), "fsync": (os, "fsync"), "replace": (os, "replace")}[fails], full)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint({"state_dict": {}}, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@contextmanager
def small_disk():
    """No file may grow beyond 10 kB; the system answers as it does when a disk is full, with another number.

    Not longer than a save: what pytest prints may go into a file, too.
    """
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_told_in_a_line(saved):
    content, before = {"state_dict": {"weight": torch.zeros(10_000)}}, saved.read_bytes()
    reason = os.strerror(errno.EFBIG)
    told = f"model.ckpt: cannot be written .{reason}.; the older file is whole$"
    with pytest.raises(OSError, match=told), small_disk():
        write_checkpoint(content, saved)
    with pytest.raises(OSError, match=f"first.ckpt: cannot be written .{reason}.$"), small_disk():
        write_checkpoint(content, saved.with_name("first.ckpt"))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file"):
        write_checkpoint({"state_dict": {}}, tmp_path / "file" / "a.ckpt")


@pytest.mark.parametrize("content", [b"", b"<html>", "half"])
def test_a_broken_file_is_named(saved, content):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(ValueError, match=r"model.ckpt: cut off, or no checkpoint") as error:
        load_model(saved)
    assert len(str(error.value).splitlines()) == 1


def test_a_flipped_bit_is_noticed_or_does_no_harm(saved):
    whole = saved.read_bytes()
    expected = read_checkpoint(saved)["state_dict"]
    generator = np.random.default_rng(0)
    noticed = 0
    for place in generator.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(generator.integers(8))
        saved.write_bytes(bytes(damaged))
        try:
            found = read_checkpoint(saved)["state_dict"]
        except ValueError:
            noticed += 1
            continue
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert noticed > 50


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone.ckpt: no such checkpoint"):
        read_checkpoint(tmp_path / "gone.ckpt")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "pwned"),))

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Evil()}, path, pickle_module=pickle)
    with pytest.raises(ValueError, match=r"evil.ckpt: cut off, or no checkpoint of tensors"):
        read_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


def test_another_tools_checkpoint_is_told_apart(tmp_path):
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"not a checkpoint of this toolkit.*--model.weights"):
        load_model(tmp_path / "other.ckpt")


def test_a_later_format_is_told(saved):
    content = torch.load(saved, weights_only=True)
    content["rcnn"]["format"] = 99
    torch.save(content, saved)
    with pytest.raises(ValueError, match="later version"):
        load_model(saved)


def test_weights_from_a_checkpoint_or_a_state_dict(saved, tmp_path):
    torch.save(build().state_dict(), tmp_path / "weights.pth")
    for path in (saved, tmp_path / "weights.pth"):
        other = build_detector(3, **CONFIGS)
        load_weights(other, path)
        assert all(
            torch.equal(a, b) for a, b in zip(other.state_dict().values(), build().state_dict().values(), strict=True)
        )


@pytest.mark.parametrize(
    ("num_classes", "changes", "message"),
    [
        (2, {}, "a detector of 3 classes, but the annotations have 2"),
        (3, {"mask_head": None}, "has unknown mask_head"),
        (3, {"fpn": FPNConfig(channels=16, norm="group")}, "lacks fpn"),
        (3, {"box_head": BoxHeadConfig(hidden=16)}, r"other shapes: box_head.*\(32.*instead of.*\(16"),
    ],
)
def test_weights_that_do_not_fit(saved, num_classes, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        load_weights(build(num_classes, **changes), saved)
    assert len(str(error.value)) < 500

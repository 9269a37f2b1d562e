import pytest
import torch

from detection import device
from detection.device import best_device, find_device, inference_device


def test_without_a_wish_it_is_the_best_and_memory_is_kept_on_a_processor_alone(monkeypatch):
    kept = []
    monkeypatch.setattr(device, "keep_freed_memory", lambda: kept.append(1))
    assert inference_device(None) == best_device()
    assert len(kept) == (not torch.cuda.is_available())
    kept.clear()
    assert inference_device("cpu") == torch.device("cpu")
    assert inference_device("meta") == torch.device("meta")
    assert len(kept) == 1


@pytest.mark.parametrize("asked", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(asked):
    with pytest.raises(ValueError, match=f"--device {asked}: .*; use cpu, or leave it out") as told:
        inference_device(asked)
    assert "\n" not in str(told.value)


def test_auto_is_the_best_and_a_device_is_found_as_it_is():
    assert find_device("auto") == best_device()
    assert find_device(torch.device("meta")) == find_device("meta") == torch.device("meta")
    with pytest.raises(ValueError, match=r"^device gpu: .*; use cpu, or leave it out$"):
        find_device("gpu")


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [("processor : 0\nmodel name : Quick : one\nmodel name : Other\n", "Quick : one"), ("Features : neon\n", "arm64")],
)
def test_a_processor_tells_its_name_where_the_system_does(cpuinfo, name, monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(device, "Path", lambda path: tmp_path / "cpuinfo")
    monkeypatch.setattr(device.platform, "processor", lambda: "")
    monkeypatch.setattr(device.platform, "machine", lambda: "arm64")
    assert device.processor_name() == name


def test_without_that_file_the_name_is_pythons(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "Path", lambda path: tmp_path / "none")
    monkeypatch.setattr(device.platform, "processor", lambda: "i386")
    assert device.processor_name() == "i386"

"""The benchmark's command on a small network, and what it advises."""

import json
import re

import pytest
import torch

from detection.engine.clock import BEGINS
from tools.benchmark import memory
from tools.benchmark.command import advice, main
from tools.benchmark.memory import CROWDED, crowded
from tools.benchmark.parts import THROUGH_WORKER


@pytest.mark.slow
def test_it_prints_a_line_for_each_and_writes_them(tmp_path, capsys):
    options = ["--backbone", "resnet18", "--sizes", "64", "--rounds", "1", "--batch", "1", "--precisions", "fp32"]
    threads = torch.get_num_threads()
    main([*options, "--parts", "train", "infer", "--threads", str(threads), "--output", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["what"] for row in found["rows"]] == ["training step, 64 px, fp32", "inference, 64 px, fp32"]
    assert set(found["shares"]["a training step, 64 px, fp32"]) == {"transfer", *BEGINS, "backward", "optimizer"}
    assert set(found["shares"]["inference, 64 px, fp32"]) == {"transfer", *BEGINS, "pasting"}
    for row in found["rows"]:
        (mine, theirs), (ratio,) = row["seconds"].values(), row["ratio"].values()
        assert ratio == pytest.approx(theirs / mine, abs=0.02)
        assert row["images_per_second"]["ours"] == pytest.approx(1 / mine, rel=0.02)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert printed[0].startswith("training step, 64 px, fp32: ours ")


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own(capsys):
    options = ["--backbone", "resnet18", "--sizes", "64", "--batch", "1", "--precisions", "fp32", "--parts", "memory"]
    main(options)
    both, crowd = capsys.readouterr().out.splitlines()
    number = r"\d\.\d+ GB"
    pattern = rf"peak memory of a training step, 64 px, fp32: ours {number}, torchvision {number} \(.* x\d\.\d\d\)"
    assert re.fullmatch(pattern, both)
    assert re.fullmatch(rf"peak memory, an image of 1000 objects, 64 px, fp32: ours {number}", crowd)


@pytest.mark.parametrize(("rate", "told"), [(2.0, "loading is not the limit"), (150.0, "data.workers 3")])
def test_advice_compares_training_with_loading(rate, told):
    rows = [
        {"what": "training step, 800 px, bf16", "images_per_second": {"ours": rate}},
        {"what": "inference, 800 px, bf16", "images_per_second": {"ours": 9}},
        {"what": THROUGH_WORKER, "images_per_second": {"ours": 100.0}},
    ]
    (sentence,) = advice(rows)
    assert sentence.endswith(told)
    assert advice(rows[:2]) == []


@pytest.mark.slow
def test_memory_of_many_sizes_is_that_of_training(capsys, monkeypatch):
    monkeypatch.setattr(memory, "MIXED", 3)
    options = ["--backbone", "resnet18", "--sizes", "64", "--batch", "1", "--precisions", "fp32", "--parts", "mixed"]
    main(options)
    number = r"\d\.\d+ GB"
    pattern = rf"peak memory of 3 training steps, 48 to 104 px, fp32: ours {number}, torchvision {number} \(.* x.*\)"
    assert re.fullmatch(pattern, capsys.readouterr().out.strip())


def test_a_crowded_image_holds_sound_objects():
    batch = crowded(320)
    height, width = batch.images.shape[-2:]
    x1, y1, x2, y2 = batch.targets.boxes[0].unbind(-1)
    assert len(x1) == CROWDED
    assert (x1 < x2).all()
    assert (y1 < y2).all()
    assert x1.min() >= 0
    assert y1.min() >= 0
    assert x2.max() <= width
    assert y2.max() <= height

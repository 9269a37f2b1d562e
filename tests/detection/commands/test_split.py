import argparse

import pytest

from detection.commands import split
from detection.formats.recognise import open_data


def command(*arguments: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    split.add_options(parser)
    split.run(parser.parse_args(arguments))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_real_images_are_split_and_read_back(tmp_path, shared_data, capsys):
    source = shared_data / "coco_mini/annotations/instances_train2017.json"
    command(str(source), "--output", str(tmp_path / "out"), "--val", "0.2", "--test", "0.1", "--seed", "3")
    told = capsys.readouterr().out
    assert "train: 70 images" in told
    assert "val: 20 images" in told
    assert "test: 10 images" in told
    assert "no object of" in told  # most of the 69 classes are in one or two images
    assert told.endswith(f"written to {tmp_path / 'out'}; use it with --data {tmp_path / 'out'}\n")
    data = open_data(tmp_path / "out", need=("train", "val", "test"))
    assert {part.images for part in data.parts.values()} == {shared_data / "coco_mini/train2017"}


def test_a_data_set_with_validation_images_needs_a_word(tmp_path, shared_data):
    arguments = [str(shared_data / "coco_mini"), "--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="the data set already has val images; add --merge"):
        command(*arguments)
    command(*arguments, "--merge", "--val", "0.1")
    data = open_data(tmp_path / "out")
    assert {part.images for part in data.parts.values()} == {shared_data / "coco_mini"}

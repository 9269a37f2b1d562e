import argparse
from pathlib import Path

import pytest

from detection.commands.convert import add_options, run


def write(path: Path, content: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def what(source: Path, *more: str, monkeypatch) -> str:
    """The conversion that the command chooses for a source."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    chosen: list[str] = []
    monkeypatch.setattr("detection.formats.convert.convert", lambda options: chosen.append(options.what) or "")
    run(parser.parse_args([str(source), "target", *more]))
    return chosen[0]


@pytest.mark.parametrize(
    ("name", "content", "source", "expected"),
    [
        ("a.json", "{}", "a.json", "coco2yolo"),
        ("data.yaml", "names: [cat]", "data.yaml", "yolo2coco"),
        ("data/data.yaml", "names: [cat]", "data", "yolo2coco"),
        ("data/labels/train/a.txt", "", "data", "yolo2coco"),
        ("mine/a.txt", "", "mine", "yolo2coco"),  # labels without their images
        ("data/Annotations/a.xml", "<annotation></annotation>", "data", "voc2coco"),
        ("xml/a.xml", "<annotation></annotation>", "xml", "voc2coco"),
    ],
)
def test_the_format_of_the_source_is_recognised(tmp_path, monkeypatch, name, content, source, expected):
    write(tmp_path / name, content)
    more = ["--to", "yolo"] if expected.startswith("coco2") else []
    assert what(tmp_path / source, *more, monkeypatch=monkeypatch) == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no such file or folder; check the path"),
        ({"data/a.pdf": ""}, "unknown format; give it with --from coco or yolo or voc or lvis"),
        ({"data/train.json": '{"images": [], "annotations": []}'}, "contains a COCO data set; give one of its"),
        ({"data/labels/a.txt": "", "data/Annotations/a.xml": "<annotation></annotation>"}, "YOLO labels .* and VOC"),
    ],
)
def test_a_source_without_one_format_is_an_error(tmp_path, monkeypatch, files, message):
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        what(tmp_path / "data", monkeypatch=monkeypatch)

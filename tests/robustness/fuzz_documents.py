"""Random damage to JSON, YAML, YOLO and VOC files must give valid content, or a short error that names the file.

Run ``python tests/robustness/fuzz_documents.py [NUMBER [SEED]]``: NUMBER files of documents (JSON and YAML in turn) and
as many of labels (YOLO and VOC in turn); 500 and 0 unless given. A finding is printed with its seed and stops the run.
"""

import json
import math
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from detection.coco.annotations import load_annotations
from detection.documents import read_json, read_yaml
from detection.engine.configs import load_yaml
from detection.evaluation.results import read_results
from detection.formats.convert import lvis_to_coco
from detection.formats.voc import read_voc
from detection.formats.yolo import read_yolo

SECONDS = 10
"""What takes longer than this hangs."""
LONGEST = 300
"""Characters of a message."""

JSON = json.dumps(
    {
        "images": [{"id": 1, "height": 60, "width": 80, "file_name": "a.png", "coco_url": "http://a/b/a.png"}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 40], "area": 1200.5}],
    }
)
RESULTS = json.dumps([{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3.5, 4], "score": 0.5}] * 2)
YAML = "path: .\ntrain: images\nval: &v images\ntest: *v\nnc: 2\nkpt_shape: [2, 3]\nnames:\n  0: cat\n  1: 'sea lion'\n"
CONFIG = "model:\n  backbone: {name: resnet18, freeze: [stem]}\n  lr: 1e-3\ndata:\n  root: &r x\n  other: *r\n"
LINES = "0 0.5 0.5 0.2 0.2\n1.0 0.1 0.1 0.5 0.1 0.5 0.5\n\n1 0.5 0.5 0.1 0.1\n"
XML = (
    "<?xml version='1.0' encoding='utf-8'?><annotation><filename>a.png</filename><size><width>80</width>"
    "<height>60</height></size><object><name>cät</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin>"
    "<xmax>30.5</xmax><ymax>40</ymax></bndbox></object></annotation>"
)
PIECES = (
    b"[" * 99, b"{" * 99, b'{"a":' * 99, b"- " * 99, b"<a>" * 99, b"9" * 5000, b"1e999", b"NaN", b"-1", b"null",
    b"~", b"on", b"=1+1", b"\x1b[2J", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"'", b"\\", b":", b",", b"\n", b"\t",
    b"&a ", b"*a ", b"<<: *v", b"!!python/name:os.system ", b"---\n", b"<!DOCTYPE a>", b"<!ENTITY b 'c'>", b"&lt;",
    b"]]>", b"utf-16", b"gb2312", b"../..", b"\xe2\x80\xae", b"0x1f", b"1_0", b"inf", b" ", b"{}", b"[]", b"\\ud800",
    b"x" * 999,
    b'"id": 1, "id": 1,', b"nc: 2\n", b"#",
)  # fmt: skip


def damaged(text: str, chance: random.Random) -> bytes:
    """Bytes changed, left out, doubled, exchanged, cut off or put in; now and then in another encoding."""
    data = bytearray(text.encode(chance.choice(("utf-8",) * 6 + ("utf-16", "utf-8-sig", "gbk", "latin-1")), "replace"))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        way, place = chance.random(), chance.randrange(len(data) + 1)
        if way < 0.25:
            data[place : place + 1] = bytes([chance.randrange(256)])
        elif way < 0.4:
            del data[place : place + chance.randint(1, 12)]
        elif way < 0.5:
            data[place:place] = data[place : place + chance.randint(1, 60)]
        elif way < 0.55:
            del data[place:]
        else:
            data[place : place + chance.choice((0, 0, 1, 5))] = chance.choice(PIECES)
    return bytes(data)


def check_json(folder: Path, chance: random.Random) -> None:
    path = folder / "a.json"
    path.write_bytes(damaged(chance.choice((JSON, RESULTS)), chance))
    for read in (
        lambda: read_json(path),
        lambda: load_annotations(path),
        lambda: read_results(path),
        lambda: lvis_to_coco(read_json(path), path),
    ):
        try:
            read()
        except ValueError as error:
            check_message(error, path)
            last: ValueError | None = error
        else:
            return
    assert last is not None
    raise last


def check_yaml(folder: Path, chance: random.Random) -> None:
    path = folder / "a.yaml"
    data = damaged(chance.choice((YAML, CONFIG)), chance)
    path.write_bytes(data)
    read_yaml(path)
    try:
        load_yaml(data.decode())
    except UnicodeDecodeError:
        return  # only the file's reader decodes
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error  # as detection.engine.config_errors.explain puts it


def check_yolo(folder: Path, chance: random.Random) -> None:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "images/a.png"), np.zeros((60, 80, 3), np.uint8))
    files = {"labels/a.txt": LINES, "data.yaml": YAML.replace("kpt_shape: [2, 3]\n", "")}
    broken = chance.choice([*files, "classes.txt", "notes.json"])
    if broken not in files:
        del files["data.yaml"]
        files[broken] = "cat\nsea lion\n" if broken == "classes.txt" else '{"categories": [{"id": 0, "name": "cat"}]}'
    for name, text in files.items():
        (folder / name).write_bytes(damaged(text, chance) if name == broken else text.encode())
    content, _ = read_yolo(folder)
    (folder / "out.json").write_text(json.dumps(content))
    assert all(map(math.isfinite, (value for entry in content["annotations"] for value in entry["bbox"])))
    load_annotations(folder / "out.json")


def check_voc(folder: Path, chance: random.Random) -> None:
    (folder / "a.xml").write_bytes(damaged(XML, chance))
    content, _ = read_voc(folder)
    (folder / "out.json").write_text(json.dumps(content))
    assert all(map(math.isfinite, (value for entry in content["annotations"] for value in entry["bbox"])))
    load_annotations(folder / "out.json")


def check_message(error: ValueError, folder: Path) -> None:
    """Raise AssertionError unless a message is one short line that names a file of the folder."""
    text = str(error)
    if str(folder) not in text or len(text) > LONGEST or not text.isprintable():
        raise AssertionError(f"{type(error).__name__}, {len(text)} characters: {text[:1000]!r}")


CHECKS: dict[str, tuple[Callable[[Path, random.Random], None], ...]] = {
    "documents": (check_json, check_yaml),
    "labels": (check_yolo, check_voc),
}


def fuzz(number: int, seed: int) -> dict[str, Counter[str]]:
    """How many were sound and how many rejected; each has a seed of its own.

    Raises:
        AssertionError: a finding, with its seed.
    """
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as top:
        for kind, checks in CHECKS.items():
            counts[kind] = Counter(sound=0, rejected=0)
            for own in range(seed, seed + number):
                folder = Path(top) / "f"
                folder.mkdir()
                signal.alarm(SECONDS)  # ends the process
                try:
                    checks[own % 2](folder, random.Random(own))
                    counts[kind]["sound"] += 1
                except Exception as error:
                    try:
                        if not isinstance(error, ValueError):
                            raise error
                        check_message(error, folder)
                    except Exception as finding:
                        shutil.copytree(folder, Path(tempfile.gettempdir()) / f"finding_{kind}_{own}")
                        raise AssertionError(f"{kind}, seed {own}: {type(finding).__name__}: {finding}") from error
                    counts[kind]["rejected"] += 1
                finally:
                    signal.alarm(0)
                shutil.rmtree(folder)
    return counts


def main() -> None:
    """Fuzz, and print the counts."""
    number, seed = [*map(int, sys.argv[1:3]), *(500, 0)[len(sys.argv) - 1 :]]
    print(f"seed {seed}: { {kind: dict(count) for kind, count in fuzz(number, seed).items()} }")


if __name__ == "__main__":
    main()

"""Result files are written completely or not at all, and errors name the file."""

import json
import os
from pathlib import Path

import pytest

from detection.evaluation import results
from detection.evaluation.results import read_results, with_boxes, write_results

BOX = {"image_id": 7, "category_id": 90, "bbox": [1.5, 2.0, 3.25, 4.0], "score": 0.1 + 0.2}
MASK = {"image_id": 7, "category_id": 90, "segmentation": {"size": [4, 4], "counts": "52203"}, "score": 1.0}


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "results.json"
    write_results(path, [BOX, MASK])
    assert read_results(path) == [BOX, MASK]
    write_results(path, [])
    assert read_results(path) == []
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, [BOX])
    with pytest.raises(ValueError, match="result 1: score is nan, but must be finite"):
        write_results(path, [BOX, BOX | {"score": float("nan")}])
    with pytest.raises(ValueError, match=r"result 0: bbox is .*, but must be finite"):
        write_results(path, [BOX | {"bbox": [1, float("inf"), 2, 3]}])
    with pytest.raises(TypeError):
        write_results(path, [BOX, MASK | {"segmentation": {"size": [4, 4], "counts": b"52203"}}])
    with pytest.raises(ValueError, match="result 1: image_id"):
        write_results(path, [BOX, BOX | {"image_id": None}])
    assert read_results(path) == [BOX]
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"image_id": 1', "not valid JSON"),
        ("{}", "give a result file, which is a list of detections"),
        ('{"annotations": []}', "annotation file"),
        ("[[1]]", "result 0: is a list, but must be a dict"),
        (json.dumps([BOX, {**BOX, "image_id": "7"}]), "result 1: image_id"),
        (json.dumps([{**BOX, "category_id": 1.5}]), "category_id"),
        (json.dumps([{**BOX, "score": None}]), "score"),
        (json.dumps([{**BOX, "score": True}]), "score"),
        (json.dumps([{**BOX, "bbox": [1, 2, 3]}]), "four numbers"),
        (json.dumps([{**BOX, "bbox": [1, 2, 3, "4"]}]), "four numbers"),
        (json.dumps([{**MASK, "segmentation": [[1, 2, 3, 4, 5, 6]]}]), "RLE"),
        (json.dumps([{**BOX, "keypoints": [1, 2]}]), "keypoints are"),
        (json.dumps([{**BOX, "keypoints": [1, 2, "3"]}]), "keypoints are"),
        (json.dumps([{**MASK, "segmentation": {"counts": "52203"}}]), "RLE"),
        (json.dumps([{"image_id": 1, "category_id": 1, "score": 0.5}]), "neither"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_results(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("counts", ["52203", b"52203", [5, 2, 2, 2, 5]])
def test_the_box_of_a_mask(counts: str | bytes | list[int]) -> None:
    """Down the columns of 4: pixels 5, 6 are column 1, rows 1, 2; pixels 9, 10 are column 2, rows 1, 2."""
    mask = MASK | {"segmentation": {"size": [4, 4], "counts": counts}}
    assert with_boxes([mask], "x") == [mask | {"bbox": [1, 1, 2, 2]}]
    with pytest.raises(ValueError, match=r"^x\.json: result 0: the runs of the RLE"):
        with_boxes([MASK | {"segmentation": {"size": [4, 5], "counts": counts}}], "x.json")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("fails", [False, True])
def test_a_file_is_closed_before_it_is_moved_or_removed(tmp_path: Path, monkeypatch, fails: bool) -> None:
    """Windows does neither with an open file."""
    seen = []

    def closed(path) -> None:
        opened = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
        seen.append(os.path.realpath(path) not in opened)

    def replace(source, target) -> None:
        closed(source)
        move(source, target)

    def unlink(path) -> None:
        closed(path)
        remove(path)

    def synced(number) -> None:
        if fails:
            raise OSError("no space")

    move, remove = os.replace, os.unlink
    monkeypatch.setattr(results.os, "replace", replace)
    monkeypatch.setattr(results.os, "unlink", unlink)
    monkeypatch.setattr(results.os, "fsync", synced)
    if fails:
        with pytest.raises(OSError, match="no space"):
            write_results(tmp_path / "results.json", [BOX])
    else:
        write_results(tmp_path / "results.json", [BOX])
    assert seen == [True]


@pytest.mark.parametrize(
    ("change", "plain"),
    [
        ({}, True),
        ({"segmentation": {"size": [4, 4], "counts": "52203"}}, True),
        ({"bbox": [1, 2, 3, 4]}, True),
        ({"image_id": "7"}, False),
        ({"category_id": 1.0}, False),
        ({"score": 1}, False),
        ({"score": None}, False),
        ({"bbox": (1, 2, 3, 4)}, False),
        ({"bbox": [1, 2, 3]}, False),
        ({"bbox": [1, 2, 3, "4"]}, False),
        ({"keypoints": [1, 2, 0.5]}, False),
        ({"segmentation": {"counts": "52203"}}, False),
        ({"segmentation": {"size": [4, 4], "counts": b"52203"}}, False),
        ({"segmentation": [[1, 2, 3, 4, 5, 6]]}, False),
    ],
)
def test_normal_results_take_the_fast_check(change: dict, plain: bool) -> None:
    assert results._are_plain([BOX, BOX | change]) is plain
    assert results._are_plain([BOX | change, MASK]) is plain
    assert not results._are_plain([BOX | change, {key: BOX[key] for key in ("image_id", "category_id", "score")}])


def test_boxes_alone_masks_alone_and_nothing_are_normal_results() -> None:
    assert all(results._are_plain(some) for some in ([BOX], [MASK], [MASK, BOX], []))
    assert not results._are_plain([1])

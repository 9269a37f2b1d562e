import re

import cv2
import numpy as np
import pytest
from PIL import Image

from detection.data.signatures import SUFFIXES
from detection.inference.sources import batches, frames, sources


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.jpg", "a.PNG", "deep/c.jpg"):
        cv2.imwrite(str(tmp_path / name), np.full((8, 10, 3), 200, np.uint8))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    return tmp_path


def names(*given):
    return [source.name for source in sources([str(one) for one in given])]


def test_folders_patterns_and_files(folder):
    assert names(folder) == ["a.PNG", "b.jpg", "broken.jpg", "deep/c.jpg"]
    assert names(folder / "*.jpg") == ["b.jpg", "broken.jpg"]
    assert names(folder / "**" / "c.*") == ["deep/c.jpg"]
    assert names(folder / "b.jpg", folder / "deep" / "c.jpg") == ["b.jpg", "c.jpg"]
    assert sources(["camera:0"])[0].kind == "camera"


def test_results_of_a_pattern_keep_the_folders_below_its_fixed_part(folder, monkeypatch):
    (folder / "other").mkdir()
    cv2.imwrite(str(folder / "other" / "c.jpg"), np.zeros((4, 4, 3), np.uint8))
    assert names(folder / "*" / "c.jpg") == ["deep/c.jpg", "other/c.jpg"]
    assert names(folder / "deep" / "*.jpg", folder / "o*" / "?.jpg") == ["c.jpg", "other/c.jpg"]
    monkeypatch.chdir(folder)
    assert names("**/c.jpg") == names("./*/c.jpg") == ["deep/c.jpg", "other/c.jpg"]


@pytest.mark.parametrize("number", ["", "x", "-1"])
def test_a_camera_without_a_number_is_refused(number):
    with pytest.raises(ValueError, match=f"^camera:{number}: a camera needs a number; write for example camera:0$"):
        sources([f"camera:{number}"])


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("nofolder", "nofolder: no such file or folder; check the path"),
        ("https://x.org/a.jpg", "https://x.org/a.jpg: is a URL; download the file, and give its path"),
    ],
)
def test_what_is_not_there_is_refused_before_any_work(folder, named, reason):
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        sources([str(folder), named])


def test_other_files_are_told(folder):
    left_out = []
    sources([str(folder), str(folder / "*.txt"), str(folder / "b.jpg")], left_out)
    assert left_out == [folder / "notes.txt"] * 2


def test_every_ending_that_can_be_read_is_taken(tmp_path):
    pixels = np.full((8, 10, 3), 200, np.uint8)
    others = [".gif", ".jfif", ".pgm", ".ppm", ".jp2", ".avif"]
    for ending in SUFFIXES.union(others) - {".npy"}:
        path = tmp_path / f"{ending[1:]}{ending}"
        if ending in (".dib", ".ras"):  # Pillow's has no file header, or it has none
            assert cv2.imwrite(str(path), pixels)
        else:
            Image.fromarray(pixels).save(path)
    failed = []
    read = list(batches(sources([str(tmp_path)]), 1, failed))
    assert not failed
    assert {some[0][0].path.suffix for some in read} >= {".jpg", ".png", *others}
    assert all(some[0][1].shape == (8, 10, 3) for some in read)


def test_nothing_and_doubles_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="no file matches"):
        sources([str(folder / "*.webp")])
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in"):
        sources([str(folder / "empty")])
    cv2.imwrite(str(folder / "b.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="would write the same result file"):
        sources([str(folder)])


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(folder):
    failed = []
    read = list(batches(sources([str(folder)]), 2, failed))
    assert [len(some) for some in read] == [2, 1]
    assert len(failed) == 1
    assert "broken.jpg" in failed[0]


def test_frames_of_a_video(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for value in (0, 100, 200):
        writer.write(np.full((24, 32, 3), value, np.uint8))
    writer.release()
    seen = list(frames(sources([str(path)])[0]))
    assert [number for number, _ in seen] == [0, 1, 2]
    assert [round(float(frame.mean())) for _, frame in seen] == pytest.approx([0, 100, 200], abs=3)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    with pytest.raises(ValueError, match="cannot be opened"):
        list(frames(sources([str(broken)])[0]))

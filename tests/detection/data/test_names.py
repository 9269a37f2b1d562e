"""File names in another spelling find their file, and no name leads outside of the image folder."""

import json
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.coco.annotations import load_annotations
from detection.data.dataset import CocoDataset
from detection.data.errors import DataError
from detection.data.names import CAPITALS, ENDS, FORM, SLASHES, _paths, _readings, find_file, forget, image_path
from detection.data.presence import check_images
from detection.data.reading import Reading


def dataset(folder: Path, names: list[str], **reading) -> CocoDataset:
    content = {
        "images": [{"id": i + 1, "height": 6, "width": 8, "file_name": name} for i, name in enumerate(names)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [],
    }
    path = folder.parent / "coco.json"
    path.write_text(json.dumps(content))
    return CocoDataset(load_annotations(path), folder, reading=Reading(**reading))


@pytest.fixture
def images(tmp_path):
    """Writes images into a folder, each of its own gray; returns the folder."""

    def write(*names: str) -> Path:
        for number, name in enumerate(names):
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _, data = cv2.imencode(".png", np.full((6, 8, 3), number, np.uint8))
            path.write_bytes(data.tobytes())
        forget()
        return tmp_path / "images"

    return write


NFC, NFD = (unicodedata.normalize(form, "größe é.jpg") for form in ("NFC", "NFD"))
FITS = {
    "composed": (NFD, NFC, FORM),
    "decomposed": (NFC, NFD, FORM),
    "in a folder": (f"{NFD}/x.jpg", f"{NFC}/x.jpg", FORM),
    "capitals": ("IMG_1.JPG", "img_1.jpg", CAPITALS),
    "small letters": ("img_1.jpg", "IMG_1.JPG", CAPITALS),
    "folder in capitals": ("Train/x.jpg", "train/x.jpg", CAPITALS),
    "backslashes": ("a/b/x.jpg", "a\\b\\x.jpg", SLASHES),
    "url": ("x.jpg", "http://images.cocodataset.org/val2017/x.jpg", ENDS),
    "url with a folder": ("val2017/x.jpg", "https://host/coco/val2017/x.jpg?token=a/b&size=3#top", ENDS),
    "url with codes": ("a b.jpg", "https://host/a%20b.jpg", ENDS),
    "file url": ("x.jpg", "file:///home/me/x.jpg", ENDS),
    "bucket": ("x.jpg", "s3://bucket/folder/x.jpg", ENDS),
    "upload": ("x.jpg", "/data/upload/3/abc-x.jpg", ENDS),
    "upload kept": ("abc-x.jpg", "/data/upload/3/abc-x.jpg", ENDS),
    "upload without a folder": ("x.jpg", "0123abcd-x.jpg", ENDS),
    "local files": ("train/a b.jpg", "/data/local-files/?d=set/train/a%20b.jpg", ENDS),
    "local files without slash": ("x.jpg", "data/local-files/?d=images/x.jpg", ENDS),
    "percent codes": ("größe 1.jpg", "gr%C3%B6%C3%9Fe%201.jpg", ENDS),
    "another machine": ("x.jpg", "/home/me/coco/x.jpg", ENDS),
    "windows": ("train/x.jpg", "C:\\Users\\me\\train\\x.jpg", ENDS),
    "share": ("x.jpg", "\\\\server\\share\\x.jpg", ENDS),
    "the folder itself": ("x.jpg", "images/x.jpg", ENDS),
    "a folder below": ("deep/x.jpg", "x.jpg", ENDS),
    "dot": ("x.jpg", ".\\x.jpg", SLASHES),
}


@pytest.mark.parametrize("case", FITS)
def test_a_name_in_another_spelling_finds_its_file_and_is_counted(images, case):
    file, name, kind = FITS[case]
    folder = images("other.jpg", "zzz/nothing.jpg", file)
    data = dataset(folder, [name])
    check_images(data)
    assert data.path(0) == folder / file
    assert data[0].image.max() == 2
    assert data.annotations.report.counts == {kind: 1}
    assert data.annotations.report.ids == {kind: [1]}
    assert image_path(folder, name) == folder / file


@pytest.mark.parametrize("name", ["x.jpg", "./x.jpg", "a%20b.jpg", "a#b?.jpg", "deep/x.jpg"])
def test_a_name_that_a_file_has_is_taken_as_it_is(images, name):
    folder = images("X.jpg", "a b.jpg", "deep/a%20b.jpg", name)
    data = dataset(folder, [name])
    check_images(data)
    assert not data.annotations.report
    assert data[0].image.max() == 3
    assert not data.annotations.report


def test_the_nearest_spelling_and_the_longest_end_decide(images):
    folder = images("x.JPG", "X.JPG", "train/x.jpg", "val/x.jpg")
    data = dataset(folder, ["/a/val/x.jpg", "/b/train/x.jpg"])
    check_images(data)
    assert [data[i].image.max() for i in (0, 1)] == [3, 2]
    for name in ("/a/x.Jpg", "zzz/X.jpg"):
        assert find_file(folder, name)[0] is None


def test_several_files_that_fit_are_told(images):
    folder = images("a/x.jpg", "b/x.jpg")
    with pytest.raises(
        FileNotFoundError, match=r"1 of 1 image is missing.*2 files match it, such as 'a/x.jpg' and 'b/x.jpg'"
    ):
        check_images(dataset(folder, ["x.jpg"]))


@pytest.mark.parametrize("names", [["cam1/1.jpg", "cam2/1.jpg"], ["cam1/1.jpg", "1.jpg"], ["1.jpg", "1.JPG"]])
def test_two_names_never_stand_for_one_file(images, names):
    with pytest.raises(FileNotFoundError, match=r"both match .*1\.jpg; give each its own file"):
        check_images(dataset(images("1.jpg", "other.jpg"), names))


def test_another_folder_s_file_is_never_taken(images):
    """Frames of one camera must not pass for those of another."""
    folder = images("cam2/0001.jpg", "cam2/0002.jpg")
    with pytest.raises(FileNotFoundError, match=r"2 of 3 images are missing, first .*cam1/0001\.jpg; no file matches"):
        check_images(dataset(folder, ["cam1/0001.jpg", "cam1/0002.jpg", "cam2/0001.jpg"]))


def test_advice_names_what_was_tried_and_the_nearest_file(images):
    folder = images("IMG_0001.png", "IMG_0002.png")
    with pytest.raises(
        FileNotFoundError, match=r"no file matches with .*; the most similar name is 'IMG_0001\.png'"
    ) as told:
        check_images(dataset(folder, ["IMG_0001.jpeg"]))
    assert len(str(told.value).replace(str(folder.parent), "")) < 300
    (folder.parent / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="that folder is empty"):
        check_images(dataset(folder.parent / "empty", ["x.jpg"]))


CLIMBS = ["../secret.png", "a/../../secret.png", "..\\secret.png", "/../secret.png", "http://h/%2e%2e/../secret.png"]


@pytest.mark.parametrize("name", [*CLIMBS, "/etc/passwd", "%2e%2e/secret.png", "file:///../secret.png", "~/secret.png"])
def test_no_name_leads_out_of_the_folder(images, name):
    folder = images("x.png")
    (folder.parent / "secret.png").write_bytes((folder / "x.png").read_bytes())
    data = dataset(folder, [name])
    with pytest.raises((DataError, FileNotFoundError)):
        check_images(data)
    with pytest.raises(DataError):
        data[0]
    assert image_path(folder, name) is None


@pytest.mark.parametrize("name", CLIMBS)
def test_a_name_that_climbs_is_rejected_with_what_the_folder_has(images, name):
    folder = images("secret.png")
    with pytest.raises((DataError, FileNotFoundError), match=r"secret\.png"):
        check_images(dataset(folder, [name]))


def test_links_to_folders_are_followed_by_name_but_not_searched(images, tmp_path):
    folder = images("x.png")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "y.png").write_bytes((folder / "x.png").read_bytes())
    (folder / "link").symlink_to(tmp_path / "else")
    (folder / "circle").symlink_to(folder)
    assert dataset(folder, ["link/y.png"]).path(0).exists()
    assert find_file(folder, "Y.PNG")[0] is None


def test_files_that_come_later_are_found_by_the_next_check(images):
    folder = images("other.jpg")
    data = dataset(folder, ["X.JPG"])
    with pytest.raises(FileNotFoundError):
        check_images(data)
    (folder / "x.jpg").write_bytes((folder / "other.jpg").read_bytes())
    check_images(data)
    assert data.path(0) == folder / "x.jpg"


@given(st.text(max_size=60) | st.text(alphabet="a./\\%2e:?=&#-d\0[]", max_size=30))
def test_any_text_is_read_as_relative_paths_that_do_not_climb(name):
    for path in _paths(name):
        parts = path.split("/")
        assert parts
        assert not {"", ".", ".."} & set(parts)


def test_the_real_case(shared_data):
    folder = shared_data.parent / "cases" / "name_nfd_on_disk"
    if not folder.is_dir():
        pytest.skip(f"no such case: {folder}")
    data = CocoDataset(load_annotations(folder / "val.json"), folder / "val")
    check_images(data)
    assert data.annotations.report.counts[FORM] == 1
    data[0]


@pytest.mark.parametrize(
    ("name", "readings"),
    [
        ("images/a.jpg", []),
        ("http://host/images/a.jpg", ["/images/a.jpg"]),
        ("/data/local-files/?d=images/a.jpg", ["images/a.jpg", "/data/local-files/"]),
        ("http://host/data/local-files/?d=images/a.jpg", ["images/a.jpg", "/data/local-files/"]),
        ("http://[", []),
    ],
)
def test_the_path_in_a_url_has_a_scheme_or_a_query_before_it(name, readings):
    assert list(_readings(name)) == [name, *readings]

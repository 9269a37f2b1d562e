import json
import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from detection.commands.main import main
from detection.shapes import write_shapes


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("sound"), train=12, val=4, size=(64, 96))


@pytest.fixture
def broken(sound, tmp_path):
    """One thing of each kind is wrong."""
    root = tmp_path / "broken"
    shutil.copytree(sound, root)
    path = root / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = 0
    content["annotations"][1]["bbox"] = [1, 1, 1, 1]
    path.write_text(json.dumps(content))
    names = [image["file_name"] for image in content["images"]]
    val = json.loads((root / "annotations/instances_val.json").read_text())["images"][0]["file_name"]
    shutil.copy(root / "train" / names[3], root / "train" / names[4])
    shutil.copy(root / "train" / names[5], root / "val" / val)
    data = (root / "train" / names[6]).read_bytes()
    (root / "train" / names[6]).write_bytes(data[: len(data) // 2])
    return root


def call(*options) -> int:
    return main(["doctor", "--config", "demo", *map(str, options)])


def test_sound_data_pass(sound, capsys):
    assert call("--data.root", sound, "--decode") == 0
    out = capsys.readouterr().out
    assert "error" not in out
    assert "Anchor coverage" in out
    assert "\n\n\n" not in out
    assert " in 12 training images and 4 validation images." in out.splitlines()[0]


def test_everything_that_is_wrong_is_found(broken, tmp_path, capsys):
    options = ("--data.root", broken, "--decode", "--html", tmp_path / "page.html", "--json", tmp_path / "all.json")
    assert call(*options) == 2
    out = capsys.readouterr().out
    assert "1 box without area (dropped)" in out
    assert "2 images with the same bytes as another" in out
    assert "1 image is in both" in out
    assert "is cut short" in out
    assert "narrower than one cell" in out
    page = (tmp_path / "page.html").read_text()
    assert "data:image/jpeg" in page
    assert "http" not in page
    assert page.count('<tr class="error">') >= 2
    assert page.count('<tr class="warning">') >= 2
    assert "Examples" in page
    assert re.search(r"\d+ errors?, \d+ warnings? and \d+ notes? in 12 training images and 4 validation images", page)
    findings = json.loads((tmp_path / "all.json").read_text())["findings"]
    assert {finding["severity"] for finding in findings} >= {"error", "warning"}


@pytest.fixture
def images(sound, tmp_path):
    """A copy, and the training images' paths."""
    root = tmp_path / "copy"
    shutil.copytree(sound, root)
    entries = json.loads((root / "annotations/instances_train.json").read_text())["images"]
    return root, [root / "train" / entry["file_name"] for entry in entries]


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("bits", [12, *(pytest.param(n, marks=pytest.mark.slow) for n in (10, 14))])
def test_sixteen_bits_that_hold_fewer_are_told(images, capsys, bits, depth):
    root, paths = images
    for k, path in enumerate(paths[:4]):
        with Image.open(path) as image:
            gray = np.linspace(0, 2**bits - 1, image.width * image.height).reshape(image.height, image.width)
        # Two of so few bits, one scaled up, and a dark one of 8 bits.
        gray = gray.astype(np.uint16) << (16 - bits) if k == 2 else gray.astype(np.uint16)
        gray = (gray >> (bits - 4)).astype(np.uint8) if k == 3 else gray
        path.write_bytes(cv2.imencode(".png", gray)[1].tobytes())
    assert call("--data.root", root, "--decode", "--data.depth", depth) == 0
    out = capsys.readouterr().out
    assert f"2 images of 16 bits use {2**bits - 1} of 65535 levels at most (1000, 1007)" in out
    assert f"multiply their pixels by {2 ** (16 - bits)}" in out


def test_what_exif_turns_and_no_size_settles_is_told(images, capsys):
    root, paths = images
    for path, orientation in zip(paths, (1, 2, 3, 6), strict=False):
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(path) as image:
            image.copy().save(path, exif=exif)
    assert call("--data.root", root) == 0
    told = f"2 images are rotated or flipped by EXIF, the first is {paths[1].name}; the size"
    assert told in capsys.readouterr().out  # the size of the last settles it


def test_a_square_image_on_its_side_is_told(tmp_path, capsys):
    root = write_shapes(tmp_path, train=2, val=1, size=(64, 64))
    path = next((root / "train").iterdir())
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.copy().save(path, exif=exif)
    assert call("--data.root", root) == 0
    assert f"1 image is rotated or flipped by EXIF, the first is {path.name}" in capsys.readouterr().out


def test_a_file_that_cannot_be_used_is_a_finding_and_the_other_is_examined(broken, capsys):
    path = broken / "annotations/instances_train.json"
    path.write_text(path.read_text()[:-20])
    assert call("--data.root", broken) == 2
    out = capsys.readouterr().out
    assert "not valid JSON" in out
    assert "Objects by class" in out


@pytest.mark.slow
def test_other_classes_and_strictness(sound, tmp_path, capsys):
    root = tmp_path / "other"
    shutil.copytree(sound, root)
    path = root / "annotations/instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:1]
    path.write_text(json.dumps(content))
    assert call("--data.root", root) == 0
    assert "their AP is not measured" in capsys.readouterr().out
    assert call("--data.root", root, "--strict") == 1
    content["categories"][0]["name"] = "other"
    path.write_text(json.dumps(content))
    assert call("--data.root", root) == 2


def test_a_mistake_in_the_settings_is_told(capsys):
    assert call("--data.rot", "x") == 2
    assert "data.root" in capsys.readouterr().err


def test_an_error_looks_only_at_the_configs_of_its_own_command(tmp_path, capsys):
    config = tmp_path / "own.yaml"
    config.write_text("base: demo\n")
    assert main(["doctor", "--config", str(config), "--data.rot", "x"]) == 2
    config.unlink()
    capsys.readouterr()
    assert call("--data.rot", "x") == 2
    assert "data.root" in capsys.readouterr().err


def test_frozen_parts_that_would_stay_random_are_an_error(sound, capsys):
    assert call("--data.root", sound, "--model.backbone.norm", "frozen", "--model.backbone.freeze", "1") == 2
    printed = capsys.readouterr().out
    assert "norm frozen and freeze 1 would keep random values" in printed
    assert "--model.backbone.norm group --model.backbone.freeze 0" in printed


def test_what_is_behind_a_photo_and_names_in_another_spelling_are_counted(images, capsys):
    root, paths = images
    with Image.open(paths[0]) as image:
        image = image.convert("RGB")
    image.save(paths[0], "MPO", save_all=True, append_images=[image.rotate(180)], quality=95)
    paths[1].rename(paths[1].with_name(paths[1].name.upper()))
    assert call("--data.root", root, "--decode", "--strict") in (0, 1)
    out = capsys.readouterr().out
    assert "1 file holds more images than the photo (MPO); the toolkit reads the photo, which comes first" in out
    assert "1 file name with other capitals than on the disk (found)" in out

import json
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detection.browse import Seen, augmentations, draw_scene, file_names, look, page
from detection.data.augmentation import Albumentations
from detection.data.scene import Scene
from detection.data.transforms import HorizontalFlip
from detection.engine.settings import read_settings
from detection.shapes import write_shapes
from tests.support.commands import browse as main


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browsed")
    write_shapes(folder, 6, 2, size=(48, 64))
    return folder


def test_the_page_shows_files_and_epochs(root, tmp_path):
    main(["--config", "demo", "--data.root", str(root), "--number", "3", "--views", "2", "--output", str(tmp_path)])
    html = (tmp_path / "browse.html").read_text()
    path = root / "annotations" / "instances_train.json"
    assert html.count("data:image/jpeg") == 3 * 3
    sources = {Path(image["file_name"]).stem for image in json.loads(path.read_text())["images"]}
    found = {path.stem for path in tmp_path.glob("*.jpg")}
    assert len(found) == 3
    assert found < sources
    assert "Augmentation: HorizontalFlip(p=0.5)" in html
    assert '<option value="0">' in html


def test_what_is_shown_is_what_is_trained_on(root):
    _, data = read_settings(["--config", "demo", "--data.root", str(root), "--data.flip", "1"])
    dataset = data.open("train")
    seen = look(dataset, 0, 1)
    assert seen.objects == len(dataset[0].boxes)
    assert np.array_equal(dataset[0, 0].image, dataset[0, 0].image)
    assert seen.before.shape[2] == seen.after[0].shape[2] == 3


def test_masks_follow_an_image_that_was_decoded_at_half_its_size():
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[4:8, 10:20] = 1
    scene = Scene(
        image=np.full((10, 15, 3), 200, np.uint8),
        boxes=np.array([[5.0, 2, 10, 4]]),
        labels=np.array([0]),
        crowd=np.array([False]),
        segmentations=[coco_mask.encode(mask)],
    )
    picture = draw_scene(scene, ["one"])
    scale = picture.shape[0] // 10
    assert (picture[3 * scale, 7 * scale] != 200).any()
    assert (picture[8 * scale, 2 * scale] == 200).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "demo", "--data.root", "nowhere"], "no annotations"),
        (["--config", "nosuch"], "nosuch"),
        (["--config", "demo", "--data.flop", "1"], "flop"),
        (["--config", "demo", "--data.root", "ROOT", "--ids", "99999"], "99999"),
        (["--config", "demo", "--data.root", "ROOT", "--number", "-3"], "--number -3: must be at least 1"),
    ],
)
def test_mistakes_are_told(root, tmp_path, capsys, arguments, message):
    arguments = [str(root) if a == "ROOT" else a for a in arguments]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--output", str(tmp_path)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def seen(name: str, image_id: int, *classes: str) -> Seen:
    return Seen(name, image_id, len(classes), classes, np.zeros((8, 8, 3), np.uint8), [], [(8, 8)])


def test_files_are_named_by_their_source():
    names = ["a/b.png", "a_b.jpg", "../c d.tif", "e.jpg", "..."]
    files = file_names([seen(name, k) for k, name in enumerate(names)])
    assert files == ["a_b_0.jpg", "a_b_1.jpg", "c_d.jpg", "e.jpg", "image_4.jpg"]


def test_images_can_be_filtered_by_class():
    html = page("title", [seen("a.jpg", 1, "cat", "<dog>"), seen("b.jpg", 2)])
    assert '<option value="1">cat</option>' in html
    assert '<option value="0">&lt;dog&gt;</option>' in html
    assert 'data-classes="1 0"' in html
    assert 'data-classes=""' in html


def test_augmentations_are_named():
    transforms = [HorizontalFlip(0.25), Albumentations([A.Rotate(limit=(-20, 20), p=0.3)])]
    assert augmentations(transforms) == ["HorizontalFlip(p=0.25)", "Rotate(p=0.3, limit=(-20.0, 20.0))"]

"""The synthetic data set is valid for COCO's own tools, and has the documented properties."""

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from detection.shapes import CATEGORIES, draw_scene, write_shapes

TRAIN, VAL = 48, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("drawn") / "shapes", train=TRAIN, val=VAL, seed=3)


@pytest.fixture(scope="module")
def coco(folder: Path) -> COCO:
    return COCO(str(folder / "annotations" / "instances_train.json"))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def to_rle(annotation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Compressed RLE of any segmentation."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def test_same_seed_same_bytes(folder: Path, tmp_path: Path) -> None:
    assert digests(write_shapes(tmp_path / "again", train=TRAIN, val=VAL, seed=3)) == digests(folder)


def test_other_seed_other_images(folder: Path, tmp_path: Path) -> None:
    other = digests(write_shapes(tmp_path, train=4, val=1, seed=4))
    assert not set(other.values()) & set(digests(folder).values())


def test_larger_set_begins_with_the_smaller(folder: Path, tmp_path: Path) -> None:
    smaller, larger = digests(write_shapes(tmp_path, train=5, val=2, seed=3)), digests(folder)
    assert all(larger[name] == value for name, value in smaller.items() if not name.endswith(".json"))


def test_files_are_as_the_json_says(folder: Path) -> None:
    for split, num in (("train", TRAIN), ("val", VAL)):
        described = json.loads((folder / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
        assert len(described["images"]) == num
        assert {image["file_name"] for image in described["images"]} == {p.name for p in (folder / split).iterdir()}
        for image in described["images"]:
            assert cv2.imread(str(folder / split / image["file_name"])).shape == (image["height"], image["width"], 3)


def test_holds_every_kind_that_it_promises(coco: COCO) -> None:
    annotations = list(coco.anns.values())
    assert {a["category_id"] for a in annotations} == set(CATEGORIES)
    assert {Path(image["file_name"]).suffix for image in coco.imgs.values()} == {".jpg", ".png"}
    assert any(not coco.getAnnIds(image) for image in coco.imgs)
    assert any(a["iscrowd"] and isinstance(a["segmentation"]["counts"], list) for a in annotations)
    assert any(not a["iscrowd"] and isinstance(a["segmentation"], dict) for a in annotations)
    assert any(isinstance(a["segmentation"], list) and len(a["segmentation"]) > 1 for a in annotations)
    assert any(a["area"] < 10 * 10 for a in annotations)
    assert any(a["bbox"][0] < 0.5 or a["bbox"][1] < 0.5 for a in annotations)
    assert len({(image["height"], image["width"]) for image in coco.imgs.values()}) > TRAIN / 2


def test_box_and_area_fit_the_mask(coco: COCO) -> None:
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        rle = to_rle(annotation, image["height"], image["width"])
        assert annotation["area"] == coco_mask.area(rle) > 0
        # The box holds the outline, the mask whole pixels; a sharp tip is up to two pixels long before it fills one.
        x, y, width, height = annotation["bbox"]
        u, v, columns, rows = coco_mask.toBbox(rle)
        edges = np.array([x, y, x + width, y + height])
        np.testing.assert_allclose(edges, [u, v, u + columns, v + rows], atol=2)
        assert edges.min() >= 0
        assert edges[2] <= image["width"]
        assert edges[3] <= image["height"]


def test_objects_share_no_pixels(coco: COCO) -> None:
    """Masks are of what is visible. Polygons are cut to a quarter pixel, so their rims may overlap."""
    for image_id, image in coco.imgs.items():
        rles = [to_rle(a, image["height"], image["width"]) for a in coco.imgToAnns[image_id]]
        for i, first in enumerate(rles):
            for second in rles[:i]:
                shared = coco_mask.area(coco_mask.merge([first, second], intersect=True))
                assert shared <= 0.15 * min(coco_mask.area(first), coco_mask.area(second))


def test_mask_covers_the_colour_of_a_circle() -> None:
    """The picture is the judge: red is what the circles' masks say is red."""
    for index in range(6):
        image, annotations = draw_scene(index, 128, 128, np.random.default_rng(index))
        red, green, blue = (image[..., c].astype(int) for c in range(3))
        seen = (red > 1.6 * green) & (red > 1.6 * blue)
        described = np.zeros((128, 128), bool)
        for annotation in annotations:
            if CATEGORIES[annotation["category_id"]] == "circle":
                described |= coco_mask.decode(to_rle(annotation, 128, 128)).astype(bool)
        assert (seen & described).sum() >= 0.9 * max(described.sum(), seen.sum())


def test_every_object_can_be_seen() -> None:
    """At least twelve pixels, by the mask on the pixel grid; a polygon cut to quarter pixels may lose a few."""
    for index in range(30):
        _, annotations = draw_scene(index, 96, 96, np.random.default_rng(index))
        assert len(annotations) <= 7
        assert all(a["area"] >= 8 for a in annotations)


def test_impossible_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32 <= low <= high"):
        write_shapes(tmp_path, size=(160, 96))

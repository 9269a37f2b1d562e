"""Semantic maps out of files, and through every transform; panoptic files, and those that are wrong."""

import json
import re
from dataclasses import replace
from pathlib import Path

import albumentations
import cv2
import numpy as np
import pytest
from PIL import Image

from detection.categories import Categories
from detection.coco.annotations import load_annotations
from detection.coco.panoptic import colours_of, ids_of, read_panoptic
from detection.data.augmentation import Albumentations
from detection.data.collate import collate, collate_unresized
from detection.data.dataset import CocoDataset
from detection.data.jitter import JitterConfig, LargeScaleJitter
from detection.data.maps import InstanceMaps, LabelMaps, PanopticMaps, read_classes
from detection.data.scene import Scene
from detection.data.transforms import HorizontalFlip, RandomCrop, Resize
from detection.structures import UNLABELLED
from tests.support.coco_files import write_dataset
from tests.support.panoptic import write_panoptic
from tests.support.scenes import ramp, random_scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_panoptic(tmp_path_factory.mktemp("panoptic"))


@pytest.fixture(scope="module")
def annotations(folder):
    return load_annotations(folder / "instances_train.json", need_masks=True)


def panoptic_maps(folder, annotations, wanted="stuff") -> PanopticMaps:
    return PanopticMaps(annotations, read_panoptic(folder / "panoptic_train.json"), folder / "panoptic_train", wanted)


def label_maps(folder, annotations, wanted="stuff", unlabelled=(0, 255)) -> LabelMaps:
    classes = read_classes(folder / "classes.json", annotations.categories)
    return LabelMaps(annotations, folder / "labels_train", classes, unlabelled, wanted)


def drawn_ids(folder: Path, name: str) -> np.ndarray:
    colours = cv2.imread(str(folder / "panoptic_train" / name))[..., ::-1].astype(int)
    return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]


def test_ids_are_three_bytes():
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 70001, 2**24 - 1]])
    assert np.array_equal(ids_of(colours_of(ids)), ids)


@pytest.mark.parametrize("wanted", ["all", "stuff"])
def test_a_panoptic_map_is_a_loop_over_pixels(folder, annotations, wanted):
    maps = panoptic_maps(folder, annotations, wanted)
    labels = {"all": {1: 0, 5: 1, 7: 2, 9: 3}, "stuff": {1: 0, 5: 1, 7: 0, 9: 2}}[wanted]
    assert maps.categories.names == {"all": ("cat", "sky", "dog", "road"), "stuff": ("things", "sky", "road")}[wanted]
    content = json.loads((folder / "panoptic_train.json").read_text())
    for i, entry in enumerate(content["annotations"]):
        classes = {one["id"]: one["category_id"] for one in entry["segments_info"]}
        ids = drawn_ids(folder, entry["file_name"])
        expected = [[labels[classes[v]] if v else UNLABELLED for v in row] for row in ids.tolist()]
        assert maps.read(i).tolist() == expected
        assert np.array_equal(label_maps(folder, annotations, wanted).read(i), maps.read(i))


def test_segments_of_the_file_and_of_masks_with_labels_are_the_same(folder, annotations):
    file, made = panoptic_maps(folder, annotations), label_maps(folder, annotations)
    for i in range(len(annotations)):
        (ids, segments), (others, again) = file.segments(i), made.segments(i)
        regions = [
            {(one.label, one.is_thing, one.is_crowd, (a == one.id).tobytes()) for one in some}
            for a, some in ((ids, segments), (others, again))
        ]
        assert regions[0] == regions[1]
        assert len(segments) == 2 + i % 3


@pytest.mark.parametrize("wanted", ["all", "stuff"])
@pytest.mark.parametrize("seed", range(8))
def test_a_map_of_masks_has_small_objects_on_large_ones(tmp_path, seed, wanted):
    from pycocotools import mask as coco_mask

    scene = random_scene(np.random.default_rng(seed))
    height, width = scene.image.shape[:2]
    objects = []
    for k in range(len(scene.boxes)):
        x0, y0, x1, y1 = scene.boxes[k].tolist()
        shape = scene.segmentations[k]
        if isinstance(shape, dict):
            shape = {"size": [height, width], "counts": shape["counts"].decode()}
        elif shape is not None:
            shape = [part.ravel().tolist() for part in shape]
        objects.append({
            "id": k + 1, "image_id": 1, "category_id": 1 + int(scene.labels[k]) % 3, "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": int(scene.crowd[k]), **({} if shape is None else {"segmentation": shape}),
        })  # fmt: skip
    image = {"id": 1, "file_name": "a.png", "height": height, "width": width}
    categories = [{"id": k, "name": str(k)} for k in (1, 2, 3)]
    content = {"images": [image], "annotations": objects, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content))
    annotations = load_annotations(tmp_path / "a.json", need_masks=True)
    maps = InstanceMaps(annotations, wanted)
    expected = np.full((height, width), 0 if wanted == "all" else 1)
    drawn = []
    for k in range(len(annotations.labels(0))):
        shape = annotations.segmentation(0, k)
        if shape is None:
            x0, y0, x1, y1 = annotations.boxes(0)[k]
            expected[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = UNLABELLED
            continue
        if not isinstance(shape, dict):
            shape = coco_mask.merge(coco_mask.frPyObjects([p.ravel().tolist() for p in shape], height, width))
        area, pixels = int(coco_mask.area(shape)), coco_mask.decode(shape).astype(bool)
        drawn.append((not annotations.crowd(0)[k], -area, k, pixels))
    for learned, _, k, mask in sorted(drawn, key=lambda one: one[:3]):
        label = annotations.labels(0)[k]
        expected[mask] = UNLABELLED if not learned else label + 1 if wanted == "all" else 0
    assert np.array_equal(maps.read(0), expected)


def labelled(height: int = 50, width: int = 70) -> Scene:
    """A scene whose image tells each pixel's x and y, with a map that differs from pixel to pixel."""
    semantic = np.random.default_rng(0).integers(0, 9, (height, width)).astype(np.uint8)
    nothing = np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool), []
    return Scene(ramp(height, width), *nothing, semantic=semantic)


EXACT = {
    "flip": HorizontalFlip(1),
    "crop": RandomCrop(31, 41),
    "pad": LargeScaleJitter(JitterConfig((1.0, 1.0), (70, 70))),
    "pad a crop": LargeScaleJitter(JitterConfig((41 / 70, 41 / 70), (70, 70))),
    "augment": Albumentations([albumentations.VerticalFlip(p=1), albumentations.RandomRotate90(p=1)]),
    "shift": Albumentations([albumentations.Affine(translate_px=(11, -7), p=1)]),
}


MANY = [("crop", "flip", "pad a crop", "flip"), ("augment", "crop")]


@pytest.mark.parametrize("names", [*((name,) for name in EXACT if name != "pad a crop"), *MANY])
def test_a_map_moves_with_its_image(names):
    """Transforms that do not mix pixels: each pixel has the label of the pixel that it was."""
    scene = start = labelled()
    generator = np.random.default_rng(1)
    for name in names:
        scene = EXACT[name](scene, generator)
    found = scene.semantic_map()
    assert found.shape == scene.image.shape[:2]
    padding = (scene.image == 128).all(axis=2) | ((names[0] == "shift") & (scene.image == 0).all(axis=2))
    x, y = scene.image[..., 0].clip(0, 69), scene.image[..., 1].clip(0, 49)
    assert (found[padding] == UNLABELLED).all()
    assert np.array_equal(found[~padding], start.semantic[y, x][~padding])


@pytest.mark.parametrize(("short", "long"), [(20, 100), (75, 200), (50, 70), (33, 40), (33, 100), (64, 90)])
def test_a_resized_map_takes_the_label_at_the_centre_of_each_pixel(short, long):
    scene, old = Resize(short, long)(labelled(), np.random.default_rng(0)), labelled().semantic
    height, width = scene.image.shape[:2]
    rows = [(2 * y + 1) * 50 // (2 * height) for y in range(height)]  # in whole numbers, so without rounding
    columns = [(2 * x + 1) * 70 // (2 * width) for x in range(width)]
    assert np.array_equal(scene.semantic_map(), old[rows][:, columns])
    if (short, long) in ((20, 100), (50, 70), (64, 90)):  # Pillow rounds otherwise where a centre is on a border
        pillow = Image.fromarray(old).resize((width, height), Image.Resampling.NEAREST)
        assert np.array_equal(scene.semantic_map(), np.asarray(pillow))


def test_a_map_follows_objects_through_augmentation():
    scene = replace(random_scene(np.random.default_rng(5), image=ramp(50, 70)), semantic=labelled().semantic)
    assert len(scene.boxes)
    for transform in ([albumentations.HorizontalFlip(p=1)], [albumentations.RandomBrightnessContrast(p=1)]):
        moved = Albumentations(transform)(scene, np.random.default_rng(0))
        expected = (
            scene.semantic[:, ::-1] if isinstance(transform[0], albumentations.HorizontalFlip) else scene.semantic
        )
        assert np.array_equal(moved.semantic_map(), expected)


def test_batches_pad_maps_and_the_device_gets_those_of_resized_images(folder, annotations):
    maps = label_maps(folder, annotations)
    flip, resize = (HorizontalFlip(1), Resize(40, 90)), (HorizontalFlip(1, later=True), Resize(40, 90, later=True))
    here, later = (CocoDataset(annotations, folder / "train", steps, masks=True, maps=maps) for steps in (flip, resize))
    batch = collate([here[0], here[1]])
    unresized = collate_unresized([later[0], later[1]])
    assert batch.targets.semantic.shape == (2, *batch.images.shape[2:]) == (2, 64, 64)
    assert (batch.targets.semantic[:, 40:] == UNLABELLED).all()
    assert (batch.targets.semantic[:, :, 60:] == UNLABELLED).all()
    assert bool((batch.targets.semantic == unresized.batch.targets.semantic).all())
    assert (batch.targets.semantic[:, :40, :4] == UNLABELLED).all()  # the column without labels, flipped
    assert collate([CocoDataset(annotations, folder / "train")[0]]).targets.semantic is None


def test_palettes_and_16_bits_are_labels(folder, annotations, tmp_path):
    values = np.where(np.arange(96) < 50, 5, 9)[None].repeat(64, 0)
    palette = Image.fromarray(values.astype(np.uint8), "P")
    palette.putpalette(list(range(0, 256)) * 3)
    maps = label_maps(folder, annotations)
    maps.folder = tmp_path
    for picture in (palette, Image.fromarray(values.astype(np.uint16))):
        picture.save(tmp_path / "001.png")
        assert maps.read(0)[0, [0, 60]].tolist() == [1, 2]


def test_wrong_label_files_get_one_line(folder, annotations, tmp_path):
    maps = label_maps(folder, annotations)
    maps.folder = tmp_path
    assert maps.missing()[0] == tmp_path / "001.png"

    def error(picture: np.ndarray | bytes | None) -> str:
        if isinstance(picture, bytes):
            (tmp_path / "001.png").write_bytes(picture)
        elif picture is not None:
            cv2.imwrite(str(tmp_path / "001.png"), picture)
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / "001.png"))) as caught:
            maps.read(0)
        return str(caught.value)

    assert "no such label file" in error(None)
    assert "is 10 x 20, but its image is 96 x 64" in error(np.zeros((20, 10), np.uint8))
    assert "has colours" in error(np.zeros((64, 96, 3), np.uint8))
    assert "the values [3, 4], which are no classes" in error(
        np.array([[3, 4, 5]], np.uint8).repeat(64, 0).repeat(32, 1)
    )
    assert "cannot be read" in error((folder / "labels_train" / "001.png").read_bytes()[:60])
    assert "cannot be read" in error(b"no image")


def change(content: dict, what: str) -> None:
    first = content["annotations"][0]
    segment = first["segments_info"][0]
    actions = {
        "unknown category": lambda: segment.update(category_id=77),
        "must be 1 to": lambda: segment.update(id=2**24),
        "two segments with one ID": lambda: segment.update(id=258),
        "no list segments_info": lambda: first.pop("segments_info"),
        "no list 'annotations'": lambda: content.pop("annotations"),
        "no isthing": lambda: content["categories"][0].pop("isthing"),
        "iscrowd that is not 0 or 1": lambda: segment.update(iscrowd=3),
        "give each image one": lambda: first.update(image_id=2),
    }
    actions[what]()


@pytest.mark.parametrize(
    "what",
    [
        *("unknown category", "must be 1 to", "two segments with one ID", "no list segments_info"),
        *("no list 'annotations'", "no isthing", "iscrowd that is not 0 or 1", "give each image one"),
    ],
)
def test_wrong_panoptic_files_get_one_line(folder, tmp_path, what):
    content = json.loads((folder / "panoptic_train.json").read_text())
    change(content, what)
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=what) as caught:
        read_panoptic(tmp_path / "wrong.json")
    assert str(tmp_path / "wrong.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_panoptic_files_that_do_not_fit_the_images_are_rejected(folder, annotations, tmp_path):
    content = json.loads((folder / "panoptic_train.json").read_text())
    content["annotations"][0]["segments_info"].pop()
    lacking = content["annotations"].pop()
    (tmp_path / "less.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"no segments of 1 image, first {lacking['image_id']}"):
        PanopticMaps(annotations, read_panoptic(tmp_path / "less.json"), folder / "panoptic_train", "stuff")
    content["annotations"].append(lacking)
    (tmp_path / "less.json").write_text(json.dumps(content))
    maps = PanopticMaps(annotations, read_panoptic(tmp_path / "less.json"), folder / "panoptic_train", "stuff")
    with pytest.raises(ValueError, match=r"has segments \[258\]"):
        maps.read(0)
    content["categories"][2]["name"] = "horse"
    (tmp_path / "less.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="classes of objects differ"):
        PanopticMaps(annotations, read_panoptic(tmp_path / "less.json"), folder / "panoptic_train", "stuff")


def test_names_that_lead_out_of_the_folder_are_rejected(folder, annotations, tmp_path):
    content = json.loads((folder / "panoptic_train.json").read_text())
    content["annotations"][0]["file_name"] = "../secret.png"
    (tmp_path / "out.json").write_text(json.dumps(content))
    maps = PanopticMaps(annotations, read_panoptic(tmp_path / "out.json"), folder / "panoptic_train", "stuff")
    with pytest.raises(ValueError, match="leads out of the folder"):
        maps.read(0)


def test_classes_without_stuff_are_rejected(tmp_path):
    (tmp_path / "classes.json").write_text('[{"id": 1, "name": "cat"}]')
    classes = read_classes(tmp_path / "classes.json", Categories(("cat",), (1,)))
    assert classes[1].tolist() == [True]
    with pytest.raises(ValueError, match="all semantic classes are objects"):
        LabelMaps(None, tmp_path, classes, (), "stuff")


@pytest.mark.parametrize("shift", [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)])
def test_pixels_beside_the_old_image_have_no_label(shift):
    """The scene is one pixel further along an axis; its image is filled there."""
    scene = labelled()
    found = replace(scene, offset=np.array(shift)).semantic_map()
    lines = {(1.0, 0.0): found[:, 0], (0.0, 1.0): found[0], (-1.0, 0.0): found[:, -1], (0.0, -1.0): found[-1]}
    assert (lines[shift] == UNLABELLED).all()
    assert (found != UNLABELLED).sum() == found.size - len(lines[shift])


def test_a_segment_without_the_entry_iscrowd_is_no_crowd(folder, tmp_path):
    content = json.loads((folder / "panoptic_train.json").read_text())
    for one in content["annotations"][0]["segments_info"]:
        del one["iscrowd"]
    (tmp_path / "short.json").write_text(json.dumps(content))
    first = content["annotations"][0]["image_id"]
    assert not read_panoptic(tmp_path / "short.json").segments(first)[2].any()


def test_the_class_of_all_objects_has_an_id_of_a_png(folder, annotations):
    for maps in (panoptic_maps(folder, annotations), label_maps(folder, annotations)):
        assert maps.categories.names[0] == "things"
        assert maps.categories.ids[0] == 0


def test_pixels_of_objects_that_the_annotations_lack_are_no_segment(folder, annotations):
    maps = label_maps(folder, annotations)
    maps.read = lambda i: np.zeros(maps.size(i), np.uint8)  # things everywhere
    ids, segments = maps.segments(0)
    assert all(one.is_thing for one in segments)
    assert set(np.unique(ids).tolist()) == {0, *(one.id for one in segments)}


def test_the_background_has_an_id_of_its_own(tmp_path):
    for ids, free in (((3, 5), 0), ((0, 5), 6)):
        categories = [{"id": number, "name": f"class{number}"} for number in ids]
        path = write_dataset(tmp_path / str(free), categories=categories, annotations=[])
        maps = InstanceMaps(load_annotations(path), "all")
        assert maps.categories.ids == (free, *ids)

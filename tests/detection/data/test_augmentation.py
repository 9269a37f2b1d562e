"""Properties of whole pipelines that hold for every random scene."""

import json

import albumentations
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader

from detection.coco.annotations import load_annotations
from detection.data import augmentation
from detection.data.augmentation import Albumentations
from detection.data.copy_paste import CopyPaste
from detection.data.dataset import CocoDataset
from detection.data.jitter import JitterConfig, LargeScaleJitter
from detection.data.mixup import MixUp
from detection.data.mosaic import Mosaic
from detection.data.photometric import PhotometricDistortion
from detection.data.pipeline import Late
from detection.data.scene import Scene
from detection.data.transforms import HorizontalFlip, RandomCrop, Resize

PIPELINES = {
    "plain": lambda: [HorizontalFlip(0.5), Resize([48, 64], 96)],
    "crop": lambda: [RandomCrop(40, 40), HorizontalFlip(0.5), Resize(64, 96)],
    "rotate": lambda: [Albumentations([albumentations.Rotate(limit=45, p=0.7)]), Resize(64, 96)],
    "many": lambda: [
        HorizontalFlip(0.5),
        Albumentations(
            [albumentations.Affine(scale=(0.7, 1.3), shear=10, p=0.5), albumentations.RandomBrightnessContrast(p=0.5)]
        ),
        RandomCrop(50, 60),
        Resize(64, 96),
    ],
}  # fmt: skip


MIXED = {
    "strong": lambda: [
        PhotometricDistortion(),
        Mosaic(p=0.5, size=(40, 50)),
        LargeScaleJitter(JitterConfig((0.5, 2), (64, 64))),
        HorizontalFlip(0.5),
        CopyPaste(),
        MixUp(p=0.5),
    ],
}
"""With transforms that take further images, which only a data set can run."""


def scene_of(boxes, image=None, masks=True) -> Scene:
    """Ellipses in boxes, bright on black, so that the image shows where they are."""
    image = np.zeros((60, 80, 3), np.uint8) if image is None else image
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    segmentations = []
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    for x0, y0, x1, y1 in boxes:
        centre, half = np.array([x0 + x1, y0 + y1]) / 2, np.array([x1 - x0, y1 - y0]) / 2
        points = centre + half * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        rle = coco_mask.frPyObjects([points.ravel().tolist()], *image.shape[:2])[0]
        image[coco_mask.decode(rle) == 1] = 255
        segmentations.append([points] if masks else None)
    count = len(boxes)
    return Scene(image, boxes, np.arange(count) % 3, np.arange(count) % 4 == 3, segmentations)


def run(pipeline, scene, seed) -> Scene:
    generator = np.random.default_rng(seed)
    for transform in pipeline:
        scene = transform(scene, generator)
    return scene


BOX = st.tuples(st.floats(0, 60), st.floats(0, 45), st.floats(0.4, 20), st.floats(0.4, 15)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@pytest.mark.parametrize("name", PIPELINES)
@settings(max_examples=40, deadline=None)
@given(st.lists(BOX, max_size=6), st.integers(0, 10**6), st.booleans())
def test_all_that_belongs_to_an_object_stays_together(name, boxes, seed, masks):
    scene = run(PIPELINES[name](), scene_of(boxes, masks=masks), seed)
    count = len(scene.boxes)
    assert len(scene.labels) == len(scene.crowd) == len(scene.segmentations) == count <= len(boxes)
    height, width = scene.image.shape[:2]
    assert (scene.boxes[:, 2:] > scene.boxes[:, :2]).all()
    assert (scene.boxes >= -1e-6).all()
    assert (scene.boxes <= np.array([width, height, width, height]) + 1e-6).all()
    for k in range(count):
        assert scene.bitmap(k, 32).shape == (32, 32)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_boxes_are_tight_around_what_the_image_shows_after_a_rotation(seed):
    scene = scene_of([(30, 20, 50, 40)])
    moved = run([Albumentations([albumentations.Rotate(limit=80, p=1.0)])], scene, seed)
    rows, columns = np.nonzero(moved.image[..., 0] > 127)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(moved.boxes[0] - seen).max() <= 1.5
    bitmap = moved.bitmap(0, 28)
    assert bitmap.any(axis=0).all()  # nothing empty at the edges of its own box
    assert bitmap.any(axis=1).all()


@pytest.mark.parametrize("masks", [True, False])
def test_a_transform_that_does_nothing_changes_nothing(masks):
    """Not even an object smaller than a pixel, nor boxes by fractions of one."""
    boxes = [(10.3, 10.4, 10.8, 10.7), (20.25, 5.5, 33.75, 19.125)]
    scene = scene_of(boxes, masks=masks)
    for transform in (albumentations.Rotate(limit=(0, 0), p=1.0), albumentations.Rotate(limit=45, p=0.0)):
        same = run([Albumentations([transform])], scene, 0)
        assert np.array_equal(same.boxes, scene.boxes)
        assert len(same.segmentations) == 2
        assert np.array_equal(same.image, scene.image)


def test_many_objects_are_moved_in_parts_as_together(monkeypatch):
    generator = np.random.default_rng(0)
    corner = generator.uniform([0, 0], [60, 45], (20, 2))
    scene = scene_of(np.concatenate([corner, corner + generator.uniform(4, 14, (20, 2))], axis=1))
    pipeline = [HorizontalFlip(1.0), Albumentations([albumentations.Rotate(limit=30, p=1.0)])]
    whole = run(pipeline, scene, 3)
    monkeypatch.setattr(augmentation, "MASKS", 6)
    parts = run(pipeline, scene, 3)
    assert np.array_equal(parts.boxes, whole.boxes)
    assert np.array_equal(parts.labels, whole.labels)
    assert np.array_equal(parts.image, whole.image)
    assert all(np.array_equal(parts.bitmap(k), whole.bitmap(k)) for k in range(len(whole.boxes)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("augmented")
    generator = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    for i in range(1, 6):
        cv2.imwrite(str(folder / f"{i}.png"), generator.integers(0, 255, (60, 80, 3), np.uint8))
        content["images"].append({"id": i, "height": 60, "width": 80, "file_name": f"{i}.png"})
        for k in range(3):
            x, y, w, h = (float(v) for v in generator.uniform([0, 0, 8, 8], [50, 40, 25, 18]))
            content["annotations"].append(
                {"id": 10 * i + k, "image_id": i, "category_id": 1, "bbox": [x, y, w, h], "iscrowd": int(k == 2),
                 "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
            )  # fmt: skip
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


def whole(samples):
    return samples


@pytest.mark.parametrize(
    ("pipeline", "workers", "context"),
    [
        ("many", 2, "fork"),
        ("many", 4, "fork"),
        pytest.param("many", 2, "spawn", marks=pytest.mark.slow),
        ("strong", 3, "fork"),
        pytest.param("strong", 2, "spawn", marks=pytest.mark.slow),
    ],
)
def test_the_same_sample_for_the_same_seed_epoch_and_image(files, pipeline, workers, context):
    data = CocoDataset(
        load_annotations(files / "coco.json"), files, (PIPELINES | MIXED)[pipeline](), masks=True, seed=5
    )
    order = [(i, epoch) for epoch in (0, 3) for i in range(5)]
    loader = DataLoader(
        data, sampler=order, batch_size=2, num_workers=workers, multiprocessing_context=context, collate_fn=whole
    )
    found = [sample for batch in loader for sample in batch]
    for key, sample in zip(order, found, strict=True):
        again = data[key]
        assert sample.image_id == again.image_id
        for name in ("image", "boxes", "labels", "crowd", "masks"):
            assert np.array_equal(getattr(sample, name), getattr(again, name)), (key, name)
    assert not np.array_equal(found[0].image, found[5].image)


def test_the_partner_depends_on_nothing_but_seed_epoch_and_image(files, monkeypatch):
    data = CocoDataset(load_annotations(files / "coco.json"), files, MIXED["strong"](), masks=True, seed=5)
    read: list[int] = []
    plain = CocoDataset.scene
    monkeypatch.setattr(CocoDataset, "scene", lambda self, i, steps=None: (read.append(i), plain(self, i, steps))[1])

    def reads(key) -> list[int]:
        read.clear()
        data[key]
        return list(read)

    keys = [(i, epoch) for epoch in range(4) for i in range(5)]
    first = {key: reads(key) for key in keys}
    assert {key: reads(key) for key in reversed(keys)} == first
    assert all(images[0] == key[0] for key, images in first.items())
    # A mosaic reads three more, copy-paste one, mixup one; a partner has no partners.
    assert {len(images) for images in first.values()} == {2, 3, 5, 6}
    assert len({tuple(images) for images in first.values()}) > 15


def test_the_last_epochs_are_calm(files):
    late = Late(3, [Resize(64, 96)])
    annotations = load_annotations(files / "coco.json")
    data = CocoDataset(annotations, files, MIXED["strong"](), masks=True, late=late)
    calm = CocoDataset(annotations, files, late.transforms, masks=True)
    assert not np.array_equal(data[0, 2].image, calm[0, 2].image)
    for epoch in (3, 4):
        for i in range(5):
            assert np.array_equal(data[i, epoch].image, calm[i, epoch].image)
            assert np.array_equal(data[i, epoch].boxes, calm[i, epoch].boxes)


def test_a_large_jpeg_is_decoded_small_for_a_small_result(tmp_path):
    height, width = 800, 1000
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], axis=2).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "0.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    square = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [100, 200, 400, 400], "iscrowd": 0,
              "segmentation": [[100, 200, 500, 200, 500, 600, 100, 600]]}  # fmt: skip
    images = [{"id": 0, "file_name": "0.jpg", "height": height, "width": width}]
    content = {"images": images, "annotations": [square], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    transforms = [LargeScaleJitter(JitterConfig((0.2, 2), (256, 256)))]
    annotations = load_annotations(tmp_path / "coco.json")
    whole, reduced = (CocoDataset(annotations, tmp_path, transforms, True, draft=draft) for draft in (False, True))
    smaller = 0
    for epoch in range(12):
        one, other = whole[0, epoch], reduced[0, epoch]
        generator = np.random.default_rng((0, epoch, 0))
        steps = reduced.pipeline.decided(epoch, generator)
        reduction = reduced.pipeline.reduction(steps, height, width)
        smaller += reduction > 1
        assert steps[0].factor(height, width) * reduction <= 1 or reduction == 1
        if reduction * steps[0].factor(height, width) * max(height, width) <= 256 * reduction:  # nothing is cut
            assert np.abs(one.boxes - other.boxes).max(initial=0) <= 1
            assert np.abs(one.image.astype(int) - other.image).mean() < 3
    assert smaller > 2


@pytest.mark.parametrize(
    ("box", "pixel"), [([2.2, 1.2, 2.6, 1.6], (1, 2)), ([79.5, 58.5, 80, 60], (59, 79)), ([4, 6, 10, 9], (7, 7))]
)
def test_a_mask_outside_of_its_box_becomes_the_middle_of_the_box(box, pixel):
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[30, 40] = 1
    scene = scene_of([box])
    scene.segmentations[0] = coco_mask.encode(np.asfortranarray(mask))
    (frame,) = augmentation._full_frames(scene)
    assert np.argwhere(frame).tolist() == [list(pixel)]

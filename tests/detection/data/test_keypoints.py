"""Keypoints through every transform, beside a slow reference that moves one point at a time."""

from dataclasses import replace

import albumentations
import numpy as np
import pytest
import torch

from detection.categories import Categories, Skeleton
from detection.coco.annotations import load_annotations
from detection.data.augmentation import Albumentations
from detection.data.augmented_keypoints import from_keypoints, to_keypoints
from detection.data.collate import collate
from detection.data.copy_paste import CopyPaste
from detection.data.dataset import CocoDataset
from detection.data.flipping import partners
from detection.data.jitter import JitterConfig, LargeScaleJitter
from detection.data.mixing import joined
from detection.data.mosaic import Mosaic
from detection.data.scene import Scene
from detection.data.transforms import HorizontalFlip, RandomCrop, Resize
from tests.support.keypoints import write_people
from tests.support.scenes import ramp

PARTNERS = np.array([[0, 2, 1], [0, 1, 2]])


def scene(height: int = 60, width: int = 80) -> Scene:
    """Three objects whose keypoints are centres of pixels; the image tells each pixel's own x and y."""
    generator = np.random.default_rng(1)
    points = generator.integers([0, 0], [width, height], (3, 3, 2)) + 0.5
    visible = np.array([[2, 1, 2], [2, 0, 1], [0, 0, 0]])[..., None]
    points = np.concatenate([points, visible], axis=2) * (visible > 0)
    boxes = np.array([[0, 0, width, height], [5, 5, width - 5, height - 5], [10, 10, 30, 40]], dtype=np.float64)
    return Scene(
        ramp(height, width), boxes, np.array([0, 0, 1]), np.zeros(3, bool), [None] * 3,
        keypoints=points, partners=PARTNERS,
    )  # fmt: skip


def same_places(before: Scene, after: Scene, swapped: bool = False) -> int:
    """Check that each labelled keypoint is on the pixel that it was on, and return how many are left."""
    moved, points = after.points(), before.points()
    # The image says from which pixel of the first one each pixel comes; labels say which object.
    left = 0
    for label in range(2):
        one, other = points[before.labels == label], moved[after.labels == label]
        order = PARTNERS[label] if swapped else np.arange(3)
        for k, target in enumerate(other):
            for j, (x, y, seen) in enumerate(target):
                if not seen:
                    assert (x, y) == (0, 0)
                    continue
                at = after.image[int(y), int(x)]
                candidates = one[:, order[j]]
                assert any((at[:2] == np.floor(p[:2])).all() and seen == p[2] for p in candidates), (label, k, j)
                left += 1
    return left


def test_a_flip_moves_keypoints_and_exchanges_left_and_right():
    before = scene()
    after = HorizontalFlip(1)(before, np.random.default_rng(0))
    assert same_places(before, after, swapped=True) == 5
    first = before.points()[0]
    assert after.points()[0].tolist() == [[80 - first[j, 0], *first[j, 1:]] for j in (0, 2, 1)]
    again = HorizontalFlip(1)(after, np.random.default_rng(0))
    assert np.array_equal(again.points(), before.points())


@pytest.mark.parametrize("seed", range(8))
def test_a_crop_keeps_the_keypoints_inside(seed):
    before = scene()
    after = RandomCrop(40, 50)(before, np.random.default_rng(seed))
    left = same_places(before, after)
    again = np.random.default_rng(seed)
    top, start = int(again.integers(0, 21)), int(again.integers(0, 31))
    x, y, seen = before.points().reshape(-1, 3).T
    inside = (seen > 0) & (x >= start) & (x <= start + 50) & (y >= top) & (y <= top + 40)
    assert left == inside.sum()


def test_resizing_scales_keypoints():
    before = scene()
    after = Resize(90, 200)(before, np.random.default_rng(0))
    expected = before.points() * [1.5, 1.5, 1]
    assert np.allclose(after.points(), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_large_scale_jitter_then_a_flip(seed):
    before = scene()
    generator = np.random.default_rng(seed)
    jittered = LargeScaleJitter(JitterConfig((0.4, 2.0), (64, 64)))(before, generator)
    labelled = jittered.points()[jittered.points()[..., 2] > 0]
    assert ((labelled[:, :2] >= 0) & (labelled[:, :2] <= 64)).all()
    flipped = HorizontalFlip(1)(jittered, generator)
    expected = jittered.points()
    expected[..., 0] = np.where(expected[..., 2] > 0, 64 - expected[..., 0], 0)
    order = PARTNERS[jittered.labels]
    assert np.allclose(flipped.points(), np.take_along_axis(expected, order[..., None], axis=1))


@pytest.mark.parametrize(
    ("transform", "swapped"),
    [
        (albumentations.HorizontalFlip(p=1), True),
        (albumentations.VerticalFlip(p=1), True),
        (albumentations.Transpose(p=1), True),
        (albumentations.Rotate((90, 90), p=1, interpolation=0), False),
        (albumentations.RandomRotate90(p=1), False),
        (albumentations.Crop(10, 10, 70, 55, p=1), False),
        (albumentations.Affine(translate_px={"x": 7, "y": -4}, interpolation=0, p=1), False),
        (albumentations.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0, p=1), False),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, bool) else "",
)
def test_albumentations_moves_keypoints_with_the_pixels(transform, swapped):
    before = scene()
    after = Albumentations([transform])(before, np.random.default_rng(0))
    assert same_places(before, after, swapped) >= 2


def test_an_affine_transform_is_exact():
    before = scene()
    affine = albumentations.Affine(rotate=(20, 20), scale=(1.2, 1.2), shear=(5, 5), p=1, fit_output=True)
    after = Albumentations([affine])(before, np.random.default_rng(0))
    old, new = before.points(), after.points()
    seen = old[..., 2] > 0
    assert (new[seen][:, 2] == old[seen][:, 2]).all()
    # The best affine map from the old places to the new ones leaves nothing over.
    ones = np.concatenate([old[seen][:, :2], np.ones((seen.sum(), 1))], axis=1)
    solution, *_ = np.linalg.lstsq(ones, new[seen][:, :2], rcond=None)
    assert np.abs(ones @ solution - new[seen][:, :2]).max() < 1e-3
    assert np.linalg.det(solution[:2]) == pytest.approx(1.2**2, rel=0.05)


def test_an_image_without_objects_passes_albumentations():
    empty = scene().chosen(np.zeros(3, dtype=bool))
    after = Albumentations([albumentations.HorizontalFlip(p=1)])(empty, np.random.default_rng(0))
    assert after.points().shape == (0, 3, 3)


def test_a_mosaic_keeps_keypoints_on_their_pixels():
    parts = [HorizontalFlip(1)(scene(), np.random.default_rng(0)), scene(), scene(40, 70), scene(50, 50)]
    rest = iter(parts[1:])
    found = Mosaic(size=(60, 80)).mix(parts[0], np.random.default_rng(2), lambda: next(rest))
    assert found.points().shape == (len(found.boxes), 3, 3)
    assert (found.scale == 1).all()
    for x, y, seen in found.points().reshape(-1, 3):
        assert not seen or found.image[int(y), int(x), 2] == 0  # of an image, not of the padding


def test_joined_scenes_have_the_keypoints_of_all():
    one, other = scene(), HorizontalFlip(1)(scene(), np.random.default_rng(0))
    both = joined([one, other], one.image)
    assert np.array_equal(both.points(), np.concatenate([one.points(), other.points()]))


def test_a_batch_has_padded_keypoints(tmp_path):
    annotations = load_annotations(write_people(tmp_path))
    table = partners(annotations.categories)
    data = CocoDataset(annotations, tmp_path / "images", [Resize(120, 400)], partners=table)
    batch = collate([data[0], data[1], data[2]])
    targets = batch.targets
    assert targets.keypoints.shape == (3, 16, 3, 3)
    assert targets.keypoints.dtype == torch.float32
    assert targets.keypoints[0, 0].tolist() == [[25, 45, 2], [41, 49, 1], [0, 0, 0]]
    assert targets.keypoints[0, 1:].abs().sum() == targets.keypoints[1].abs().sum() == 0
    assert CocoDataset(annotations, tmp_path / "images")[0].keypoints is None


def test_partners_by_names_and_by_a_table():
    people = Categories(
        ("dog", "person", "stone"), (1, 2, 3),
        (Skeleton(("LeftEar", "tail", "RightEar", "left paw")), Skeleton(("hand_left", "hand_right")), Skeleton()),
    )  # fmt: skip
    assert partners(people).tolist() == [[2, 1, 0, 3], [1, 0, 2, 3], [0, 1, 2, 3]]
    assert partners(people, [("tail", "left paw")]).tolist() == [[0, 3, 2, 1], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert partners(people, []).tolist() == [[0, 1, 2, 3]] * 3
    for wrong in ([("tail", "nose")], [("tail",)]):
        with pytest.raises(ValueError, match=r"data\.flip_pairs"):
            partners(people, wrong)


def test_a_scene_without_keypoints_has_none():
    plain = replace(scene(), keypoints=None, partners=None)
    for transform in (HorizontalFlip(1), RandomCrop(40, 50), Albumentations([albumentations.HorizontalFlip(p=1)])):
        assert transform(plain, np.random.default_rng(0)).points() is None


def test_pasted_objects_hide_keypoints_below():
    below, above = scene(), scene()
    square = [np.array([[10.0, 10], [50, 10], [50, 38], [10, 38]])]
    above = replace(above, boxes=np.array([[10.0, 10, 50, 38]] * 3), segmentations=[square, None, None])
    paste = CopyPaste()
    found = None
    for seed in range(20):  # until the object is drawn
        found = paste.mix(below, np.random.default_rng(seed), lambda: above)
        if len(found.boxes) > 3:
            break
    assert len(found.boxes) == 4
    for (x, y, seen), (_, _, after) in zip(
        below.points().reshape(-1, 3), found.points()[:3].reshape(-1, 3), strict=True
    ):
        covered = 10 <= x < 50 and 10 <= y < 38
        assert after == (min(seen, 1) if covered else seen)
    assert any(10 <= x < 50 and 10 <= y < 38 and seen == 2 for x, y, seen in below.points().reshape(-1, 3))


@pytest.mark.parametrize(("x", "y", "inside"), [(-0.5, 5, False), (0, 0, True), (80, 60, True), (5, 60.5, False)])
def test_a_point_half_a_pixel_outside_is_not_labelled(x, y, inside):
    before = scene()
    moved = to_keypoints(before)["keypoints"]
    moved[0] = np.array([x, y]) - 0.5  # albumentations counts from the centres of pixels
    assert (from_keypoints(before, moved, (60, 80))[0, 0, 2] > 0) == inside

"""Large-scale jitter, copy-paste, mosaic and mixup on random scenes, compared with a slow pixel-by-pixel reference."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detection.coco.patches import Patch, patch_to_rle
from detection.data.copy_paste import CopyPaste
from detection.data.jitter import JitterConfig, LargeScaleJitter, Zoom, _window
from detection.data.mixing import joined, pixels_of, settled
from detection.data.mixup import MixUp
from detection.data.mosaic import Mosaic
from detection.data.photometric import PhotometricDistortion
from detection.data.scene import MIN_VISIBLE, Scene
from detection.data.transforms import HorizontalFlip
from tests.support.scenes import bounds, draw, ramp, random_scene

PARTNER = 100
"""Labels of the second image's objects begin here."""
COUNTS = [pytest.param(150, id="quick"), pytest.param(10_000, marks=pytest.mark.slow, id="slow")]


def jittered(scene: Scene, generator: np.random.Generator, scale=(0.1, 2.0), size=(64, 72)) -> Scene:
    return HorizontalFlip(0.5)(LargeScaleJitter(JitterConfig(scale, size))(scene, generator), generator)


def shown_size(scene: Scene, old: Scene) -> tuple[int, int]:
    """Rows and columns of the old image in a jittered one; padding is behind them."""
    sides = np.round(np.abs(scene.scale) * np.array(old.image.shape[1::-1])).astype(int)
    width, height = np.minimum(sides, scene.image.shape[1::-1])
    return int(height), int(width)


@pytest.mark.parametrize("count", COUNTS)
def test_jitter_loses_nothing_visible_and_its_boxes_are_the_masks_bounds(count):
    seen = gone = cut = 0
    for seed in range(count):
        generator = np.random.default_rng(seed)
        old = random_scene(generator)
        new = jittered(old, generator)
        height, width = new.image.shape[:2]
        assert (height, width) == (64, 72)
        check_place(old, new)
        places = {int(label): k for k, label in enumerate(new.labels)}
        for label, (segmentation, crowd) in enumerate(zip(old.segmentations, old.crowd, strict=True)):
            corners = old.boxes[label].reshape(2, 2) * new.scale + new.offset
            whole = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
            clipped = whole.clip(0, [width, height, width, height])
            touched = (clipped != whole).any()
            if segmentation is None:
                assert (label in places) == (not touched or (clipped[2:] - clipped[:2] >= MIN_VISIBLE).all())
                if label in places:
                    assert new.boxes[places[label]] == pytest.approx(clipped)
                continue
            drawn = draw(segmentation, new.scale, new.offset, height, width)
            size = drawn.high - drawn.low
            if label not in places:
                gone += 1
                assert touched
                assert (size < MIN_VISIBLE + 0.1).any(), (seed, label)
                continue
            seen, cut = seen + 1, cut + touched
            k = places[label]
            assert new.crowd[k] == crowd
            assert type(new.segmentations[k]) is type(segmentation)
            box = new.boxes[k]
            assert box[:2] == pytest.approx(drawn.low, abs=0.1), (seed, label)
            assert box[2:] == pytest.approx(drawn.high, abs=0.1), (seed, label)
            if not drawn.thin and drawn.pixels.any():
                shown = full(pixels_of(new, [k])[0], height, width)
                assert np.array_equal(shown & drawn.sure, drawn.pixels & drawn.sure), (seed, label)
    assert min(seen, gone, cut) > count / 10


def check_place(old: Scene, new: Scene) -> None:
    """The pixels, which say where they were, lie where the scene says that they are."""
    scale, offset = new.scale, new.offset
    sides = np.array(old.image.shape[1::-1])
    corners = np.stack([np.zeros(2), sides]) * scale + offset
    low, high = corners.min(axis=0).clip(0).round().astype(int), corners.max(axis=0).round().astype(int)
    part = new.image[low[1] : high[1], low[0] : high[0]]
    x, y = low[0] + np.arange(part.shape[1]) + 0.5, low[1] + np.arange(part.shape[0]) + 0.5
    wanted_x = ((x - offset[0]) / scale[0] - 0.5).clip(0, sides[0] - 1)
    wanted_y = ((y - offset[1]) / scale[1] - 0.5).clip(0, sides[1] - 1)
    # Resizing blurs by less than a pixel of either image.
    assert np.abs(part[..., 0] - wanted_x).max(initial=0) <= 1 + 0.5 / abs(scale[0])
    assert np.abs(part[..., 1] - wanted_y[:, None]).max(initial=0) <= 1 + 0.5 / abs(scale[1])


def full(patch: Patch, height: int, width: int) -> np.ndarray:
    bitmap = np.zeros((height, width), dtype=bool)
    bitmap[patch.place] = patch.pixels
    return bitmap


def drawn_all(scene: Scene) -> tuple[dict[int, np.ndarray], bool]:
    """The pixels of every object with a mask, by its label; and whether the judge cannot be sure."""
    height, width = scene.image.shape[:2]
    found, thin = {}, False
    for label, segmentation in zip(scene.labels.tolist(), scene.segmentations, strict=True):
        if segmentation is not None:
            drawn = draw(segmentation, scene.scale, scene.offset, height, width)
            thin |= drawn.thin or not drawn.pixels.any() or not drawn.sure.all()
            found[label] = drawn.pixels
    return found, thin


@pytest.mark.parametrize("count", COUNTS)
def test_copy_paste_hides_what_lies_below_and_nothing_else(count):
    pasted_objects = hidden = removed = judged = 0
    for seed in range(count):
        generator = np.random.default_rng(seed)
        below = random_scene(generator)
        below = jittered(below, generator, (0.8, 1.6))
        above = jittered(random_scene(generator, PARTNER), generator, (0.8, 1.6))
        below.image[:], above.image[:] = 10, 200
        old, other = dict(zip(below.labels.tolist(), range(len(below.labels)), strict=True)), above
        before, thin = drawn_all(below)
        source, thin_too = drawn_all(other)
        config = CopyPaste(shift=2, area=150)
        new = config.mix(below, generator, lambda other=other: other)
        assert (below.image == 10).all()  # a scene is never changed in place
        if thin or thin_too:
            continue
        judged += 1
        after, _ = drawn_all(new)
        covered = np.zeros(new.image.shape[:2], dtype=bool)
        for k, label in enumerate(new.labels.tolist()):
            if label >= PARTNER:
                pasted_objects += 1
                assert not new.crowd[k]
                assert np.array_equal(after[label], source[label]), (seed, label)
                assert new.boxes[k] == pytest.approx(other.boxes[list(other.labels).index(label)])
                covered |= after[label]
        assert np.array_equal(new.image == 200, np.repeat(covered[..., None], 3, axis=2)), seed
        kept = set(new.labels.tolist())
        for label, k in old.items():
            if label not in before:
                window = tuple(
                    slice(int(np.floor(a)), int(np.ceil(b))) for a, b in below.boxes[k].reshape(2, 2).T[::-1]
                )
                assert (label in kept) == (not covered[window].all())
                continue
            visible = before[label] & ~covered
            if np.array_equal(visible, before[label]):
                place = new.labels.tolist().index(label)
                assert new.boxes[place] == pytest.approx(below.boxes[k])
                assert type(new.segmentations[place]) is type(below.segmentations[k])
                assert np.array_equal(after[label], visible)
                continue
            hidden += 1
            moved = np.abs(np.array(bounds(visible)) - below.boxes[k]).max() if visible.any() else np.inf
            stays = visible.any() and (below.crowd[k] or moved <= 2 or visible.sum() > 150)
            assert (label in kept) == stays, (seed, label)
            if stays:
                place = new.labels.tolist().index(label)
                assert new.crowd[place] == below.crowd[k]
                assert np.array_equal(after[label], visible), (seed, label)
                assert new.boxes[place].tolist() == bounds(visible)
            removed += not stays
    assert judged > count / 2
    assert min(pasted_objects, hidden) > count / 8
    assert removed > count / 50


@pytest.mark.parametrize("count", COUNTS)
def test_a_mosaic_shows_each_object_on_its_own_image(count):
    seen = 0
    for seed in range(count // 2):
        generator = np.random.default_rng(seed)
        scenes = [painted(random_scene(generator, PARTNER * k), 40 * (k + 1)) for k in range(4)]
        others = iter(scenes[1:])
        new = Mosaic(size=(40, 48)).mix(scenes[0], generator, lambda others=others: next(others))
        assert new.image.shape == (80, 96, 3)
        after, _ = drawn_all(new)
        for k, label in enumerate(new.labels.tolist()):
            box = new.boxes[k]
            assert (box[2:] > box[:2]).all()
            assert box.min() >= 0
            own = new.image[..., 0] == 40 * (label // PARTNER + 1)
            if label in after and after[label].any():
                seen += 1
                assert own[after[label]].all(), (seed, label)
                left, top, right, bottom = (int(side) for side in bounds(own))
                drawn = draw(new.segmentations[k], np.ones(2), -np.array([left, top]), bottom - top, right - left)
                if isinstance(new.segmentations[k], dict):  # in pixels of the mosaic, where the box is exact
                    assert (box[:2] - [left, top] <= drawn.low + 0.5001).all(), (seed, label)
                    assert (box[2:] - [left, top] >= drawn.high - 0.5001).all(), (seed, label)
                    continue
                assert box[:2] - [left, top] == pytest.approx(drawn.low, abs=0.1), (seed, label)
                assert box[2:] - [left, top] == pytest.approx(drawn.high, abs=0.1), (seed, label)
        # What is bright is an object; only objects that are cut to less than a pixel are gone.
        bright = new.image[..., 1] > 250
        masks = np.zeros_like(bright)
        for label in after:
            masks |= after[label]
        assert (bright & ~grown(masks)).sum() <= 40, seed
    assert seen > count


def painted(scene: Scene, value: int) -> Scene:
    """The scene on an image of one value, in whose second channel the masks are bright."""
    after, _ = drawn_all(scene)
    scene.image[:] = value
    scene.image[..., 1] = 0
    for bitmap in after.values():
        scene.image[bitmap, 1] = 255
    return scene


def grown(bitmap: np.ndarray) -> np.ndarray:
    found = np.pad(bitmap, 1)
    found = found[:-2] | found[1:-1] | found[2:]
    return found[:, :-2] | found[:, 1:-1] | found[:, 2:]


def test_mixup_is_the_mean_of_two_images_and_has_the_objects_of_both():
    for seed in range(50):
        generator = np.random.default_rng(seed)
        one, other = random_scene(generator), random_scene(generator, PARTNER)
        one.image[:], other.image[:] = 100, 200
        new = MixUp().mix(one, generator, lambda other=other: other)
        height, width = one.image.shape[:2]
        rows, columns = min(height, other.image.shape[0]), min(width, other.image.shape[1])
        assert (new.image[:rows, :columns] == 150).all()
        assert (new.image[rows:] == 107).all()
        labels = new.labels.tolist()
        assert labels[: len(one.labels)] == one.labels.tolist()
        assert set(labels[len(one.labels) :]) <= set(other.labels.tolist())
        assert (new.boxes <= [width, height, width, height]).all()
    assert MixUp(p=0).mix(one, generator, lambda: pytest.fail("no image is needed")) is one


def test_a_settled_scene_has_the_same_pixels():
    for seed in range(100):
        generator = np.random.default_rng(seed)
        scene = jittered(random_scene(generator), generator, (0.5, 2))
        still = settled(scene)
        height, width = scene.image.shape[:2]
        every = range(len(scene.boxes))
        for k, one, other in zip(every, pixels_of(scene, every), pixels_of(still, every), strict=True):
            differ = full(one, height, width) ^ full(other, height, width)
            if differ.any():
                drawn = draw(scene.segmentations[k], scene.scale, scene.offset, height, width)
                assert not (differ & drawn.sure).any(), (seed, k)


def test_an_rle_of_a_part_is_that_of_the_whole_image():
    from pycocotools import mask as coco_mask

    generator = np.random.default_rng(0)
    for _ in range(50):
        height, width = (int(side) for side in generator.integers(3, 40, 2))
        top, left = int(generator.integers(height)), int(generator.integers(width))
        rows, columns = int(generator.integers(1, height - top + 1)), int(generator.integers(1, width - left + 1))
        bitmap = generator.random((rows, columns)) < generator.random()
        patch = Patch(top, left, bitmap)
        decoded = coco_mask.decode(patch_to_rle(patch, height, width)).astype(bool)
        assert np.array_equal(decoded, full(patch, height, width))


def test_joined_scenes_keep_their_order_and_kinds():
    generator = np.random.default_rng(3)
    scenes = [random_scene(generator, PARTNER * k, ramp(40, 50)) for k in range(3)]
    new = joined(scenes, scenes[0].image)
    assert new.labels.tolist() == [label for scene in scenes for label in scene.labels.tolist()]
    kinds = [type(one) for scene in scenes for one in scene.segmentations]
    assert [type(one) for one in new.segmentations] == kinds


def test_photometric_distortion_keeps_type_and_size_and_changes_colours():
    generator = np.random.default_rng(0)
    for dtype, channels in ((np.uint8, 3), (np.uint16, 3), (np.uint8, 1), (np.uint8, 5)):
        image = generator.integers(0, np.iinfo(dtype).max, (20, 30, channels), dtype)
        scene = random_scene(generator, image=image)
        results = [PhotometricDistortion()(scene, np.random.default_rng(seed)).image for seed in range(20)]
        assert all((one.dtype, one.shape) == (image.dtype, image.shape) for one in results)
        assert sum(not np.array_equal(one, image) for one in results) > 10
    still = PhotometricDistortion(0, (1, 1), (1, 1), 0)
    permuted = [still(random_scene(generator, image=ramp(8, 9)), np.random.default_rng(k)).image for k in range(20)]
    assert all(
        sorted(map(bytes, np.moveaxis(one, 2, 0))) == sorted(map(bytes, np.moveaxis(ramp(8, 9), 2, 0)))
        for one in permuted
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (JitterConfig(scale=(0, 1)), "data.jitter.scale"),
        (JitterConfig(scale=(2, 1)), "the smaller one first"),
        (JitterConfig(size=(0, 8)), "data.jitter.size"),
        (CopyPaste(p=2), "data.copy_paste.p 2 must be a probability"),
        (CopyPaste(area=-1), "must not be below 0"),
        (CopyPaste(most=-1), "must not be below 0"),
        (CopyPaste(shift=-0.5), "must not be below 0"),
        (Mosaic(p=1.01), "data.mosaic.p 1.01 must be a probability, from 0 to 1"),
        (Mosaic(size=(1, 0)), r"data.mosaic.size \[1, 0\] must be a height and a width of at least 1 pixel"),
        (Mosaic(size=(0, 1)), "data.mosaic.size"),
        (MixUp(p=-1), "data.mixup.p"),
        (PhotometricDistortion(contrast=(2, 1)), "data.photometric.contrast"),
        (PhotometricDistortion(hue=-1), "must not be below 0"),
    ],
)
def test_settings_that_cannot_be_are_rejected_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        config.check()


@pytest.mark.parametrize(
    "config",
    [
        JitterConfig((0.01, 0.01), (1, 1)), CopyPaste(0, 0, 0, 0), CopyPaste(1), Mosaic(0, (1, 1)), Mosaic(1), MixUp(0),
        MixUp(1),
    ],
)  # fmt: skip
def test_settings_may_be_at_their_limits(config):
    config.check()


def test_the_settings_are_those_of_the_papers_unless_told():
    assert CopyPaste() == CopyPaste(p=1, most=100, shift=10, area=300)
    assert Mosaic() == Mosaic(p=1, size=(640, 640))
    assert MixUp() == MixUp(p=1)
    assert JitterConfig() == JitterConfig(scale=(0.1, 2), size=(1024, 1024))


class Drawn:
    """A generator whose numbers are given."""

    def __init__(self, *numbers: float) -> None:
        self._numbers, self.ranges = iter(numbers), []

    def random(self) -> float:
        return next(self._numbers)

    def uniform(self, *limits: float) -> float:
        self.ranges.append(limits)
        return next(self._numbers)

    integers = uniform


def gray(value: int, height: int = 8, width: int = 6, dtype=np.uint8) -> Scene:
    image = np.full((height, width, 3), value, dtype)
    boxes = np.array([[1.0, 2, 4, 6]])
    return Scene(image, boxes, np.array([value]), np.zeros(1, bool), [None])


@pytest.mark.parametrize("config", [Mosaic(0.5, (4, 4)), MixUp(0.5), CopyPaste(0.5)])
def test_an_image_stays_alone_with_the_other_probability(config):
    scene = gray(10)
    assert config.mix(scene, Drawn(0.5), lambda: pytest.fail("no partner is needed")) is scene


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 1), (np.uint16, 257)])
def test_mixup_is_the_mean_and_gray_where_the_second_image_ends(dtype, white):
    scene, other = gray(100 * white, 8, 6, dtype), gray(200 * white, 5, 7, dtype)
    generator = Drawn(0, 0, 1)
    new = MixUp().mix(scene, generator, lambda: other)
    assert generator.ranges == [(1,), (2,)]  # a lower image has one place, a wider one as many as fit
    expected = np.full((8, 6, 3), 107 * white)  # with the gray of YOLOX, 114
    expected[:5] = 150 * white
    assert np.array_equal(new.image, expected)
    assert new.boxes.tolist() == [[1, 2, 4, 6], [0, 2, 3, 5]]


def test_a_mosaic_has_four_images_around_its_middle():
    scenes = [gray(10 * k, 4, 4) for k in range(1, 5)]
    later = iter(scenes[1:])
    generator = Drawn(0, 0.5, 0.25)
    new = Mosaic(size=(4, 6)).mix(scenes[0], generator, lambda: next(later))
    assert generator.ranges == [(0.25, 0.75)] * 2
    expected = np.full((8, 12), 114)  # the middle is at row 4, column 3
    expected[:4, :3], expected[:4, 3:7], expected[4:, :3], expected[4:, 3:7] = 10, 20, 30, 40
    assert np.array_equal(new.image[..., 0], expected)
    assert dict(zip(new.labels.tolist(), new.boxes.tolist(), strict=True)) == {
        10: [0, 2, 3, 4], 20: [4, 2, 7, 4], 30: [0, 6, 3, 8], 40: [4, 6, 7, 8]
    }  # fmt: skip


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 1), (np.uint16, 257)])
def test_jitter_pads_with_the_gray_of_detectron2(dtype, white):
    new = LargeScaleJitter(JitterConfig((0.5, 0.5), (8, 8)))(gray(10, 8, 8, dtype), Drawn(0.5))
    assert new.image.shape == (8, 8, 3)
    assert np.array_equal(np.unique(new.image[:4, :4]), [10])
    assert np.array_equal(np.unique(new.image[4:]), [128 * white])
    assert np.array_equal(np.unique(new.image[:, 4:]), [128 * white])
    assert new.boxes.tolist() == [[0.5, 1, 2, 3]]


@pytest.mark.parametrize(("height", "width", "factor"), [(4, 6, 1), (8, 6, 0.5), (4, 12, 0.5), (2, 3, 2), (40, 6, 0.1)])
def test_an_image_is_fitted_into_the_size(height, width, factor):
    assert Mosaic(size=(4, 6)).factor(height, width) == factor
    assert Zoom(3, (4, 6)).factor(height, width) == pytest.approx(3 * factor)


@pytest.mark.parametrize(
    ("old", "new", "factor", "window", "places"),
    [
        (10, 20, 1, (0, 10, 10), None),
        (10, 20, 2, (0, 10, 20), None),
        (10, 20, 2.04, (0, 10, 20), None),  # 20.4 is rounded
        (10, 20, 4, (3, 5, 20), 6),
        (10, 20, 2.1, (0, 10, 20), 1),
        (10, 20, 0.01, (0, 10, 1), None),
        (10, 2, 9, (3, 1, 2), 10),  # at least a pixel
    ],
)
def test_the_window_of_a_side(old, new, factor, window, places):
    """First pixel, number of pixels, and how many they become; only a larger side is cut."""
    generator = Drawn(window[0])
    assert _window(old, new, factor, generator) == window
    assert generator.ranges == ([] if places is None else [(places,)])


@pytest.mark.parametrize("axis", [0, 1])
def test_of_a_mask_between_the_centres_of_pixels_the_middle_one_is_kept(axis):
    """A tenth of its size, the mask touches two pixels and holds the centre of neither."""
    mask = np.zeros((40, 40), np.uint8)
    mask[2:4, 8:12] = 1
    box = np.array([[0.8, 0.2, 1.2, 0.4] if axis == 0 else [0.2, 0.8, 0.4, 1.2]])
    rle = coco_mask.encode(np.asfortranarray(mask if axis == 0 else mask.T))
    scale = np.array([0.1, 0.1])
    scene = Scene(np.zeros((4, 4, 3), np.uint8), box, np.zeros(1, int), np.zeros(1, bool), [rle], scale=scale)
    (patch,) = pixels_of(scene, [0])
    assert patch.pixels.tolist() == ([[False, True]] if axis == 0 else [[False], [True]])


@pytest.mark.parametrize(("drawn", "flipped"), [(0.49, True), (0.5, False)])
def test_an_image_is_flipped_with_its_probability(drawn, flipped):
    scene = gray(10)
    assert (HorizontalFlip(0.5)(scene, Drawn(drawn)) is not scene) == flipped


def test_jitter_tells_where_the_image_ends():
    small = LargeScaleJitter(JitterConfig((0.5, 0.5), (8, 6)))(gray(10, 8, 6), Drawn(0.5))
    assert small.content.tolist() == [0, 0, 3, 4]
    whole = LargeScaleJitter(JitterConfig((1, 1), (8, 6)))(gray(10, 8, 6), Drawn(1))
    assert whole.content is None

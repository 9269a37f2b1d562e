import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from detection.data.collate import collate, collate_unresized, own_canvases
from detection.data.sample import Sample
from detection.data.transforms import Resize
from detection.structures import IGNORE


def sample(height: int, width: int, objects: int = 1, masks: bool = True, image_id: int = 5) -> Sample:
    generator = np.random.default_rng(height)
    return Sample(
        image=generator.integers(1, 255, (height, width, 3), np.uint8),
        image_id=image_id,
        original_size=(2 * height, 2 * width),
        boxes=np.tile(np.array([[1, 2, 3, 4]], np.float32), (objects, 1)),
        labels=np.arange(objects),
        crowd=np.arange(objects) % 2 == 1,
        masks=np.ones((objects, 112, 112), np.uint8) if masks else None,
    )


def test_images_lie_top_left_on_the_smallest_canvas():
    samples = [sample(40, 70), sample(60, 30)]
    batch = collate(samples)
    assert batch.images.shape == (2, 3, 64, 96)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for image, one in zip(batch.images, samples, strict=True):
        height, width = one.image.shape[:2]
        assert np.array_equal(image[:, :height, :width].permute(1, 2, 0), one.image)
        assert image.sum() == one.image.sum(dtype=np.int64)  # nothing beyond the image
    assert batch.sizes.tolist() == [[40, 70], [60, 30]]
    assert batch.original_sizes.tolist() == [[80, 140], [120, 60]]
    assert batch.image_ids.tolist() == [5, 5]


@pytest.mark.parametrize("method", ["opencv", "tensor"])
def test_an_images_own_canvas_is_the_one_it_lies_on_alone(method):
    resize = Resize(64, 128, method)
    sizes = np.array([[height, width] for height in range(60, 70) for width in range(60, 140, 3)])
    for size, canvas in zip(sizes, own_canvases(sizes, resize), strict=True):
        image = resize.image(np.zeros((*size, 3), np.uint8))
        assert collate([Sample(image, 0, tuple(size))]).images.shape[2:] == tuple(canvas)


def test_canvases_of_choice_come_first_if_they_fit():
    canvases = [(64, 128), (128, 64), (128, 128)]
    assert collate([sample(40, 70)], canvases=canvases).images.shape[-2:] == (64, 128)
    assert collate([sample(40, 70), sample(70, 40)], canvases=canvases).images.shape[-2:] == (128, 128)
    assert collate([sample(40, 200)], canvases=canvases).images.shape[-2:] == (64, 224)


@pytest.mark.parametrize(("objects", "room"), [(0, 16), (16, 16), (17, 32), (100, 128)])
def test_room_for_objects_is_a_power_of_two(objects, room):
    targets = collate([sample(32, 32, objects), sample(32, 32, 0)]).targets
    assert targets.boxes.shape == (2, room, 4)
    assert targets.labels[0].tolist() == list(range(objects)) + [IGNORE] * (room - objects)
    assert targets.masks.shape == (2, room, 112, 112)
    assert (targets.boxes[1] == 0).all()
    assert not targets.crowd[1].any()


def test_a_detector_without_masks_carries_none():
    assert collate([sample(32, 32, masks=False)]).targets.masks is None


@pytest.mark.parametrize("strategy", sorted(torch.multiprocessing.get_all_sharing_strategies()))
def test_a_worker_writes_batches_where_training_reads_them(strategy):
    samples = [sample(40, 70, 3), sample(60, 30, 0), sample(5, 5), sample(33, 60, 20)]
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy(strategy)
    try:
        found = list(DataLoader(samples, 2, collate_fn=_watched, num_workers=1))
    finally:
        torch.multiprocessing.set_sharing_strategy(before)
    for k, (one, were_shared) in enumerate(found):
        assert were_shared
        expected = collate(samples[2 * k : 2 * k + 2])
        for a, b in zip((*one[:4], *one.targets), (*expected[:4], *expected.targets), strict=True):
            assert a is b is None or torch.equal(a, b)
        assert one.images.is_contiguous(memory_format=torch.channels_last)


def _watched(samples):
    batch = collate(samples)
    return batch, batch.images.is_shared() and batch.targets.masks.is_shared()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90), st.integers(0, 7)), min_size=1, max_size=4))
def test_whatever_is_collated_comes_out_again(shapes):
    samples = [sample(height, width, objects, image_id=k) for k, (height, width, objects) in enumerate(shapes)]
    batch = collate(samples)
    targets = batch.targets
    assert all(side % 32 == 0 for side in batch.images.shape[2:])
    for k, one in enumerate(samples):
        height, width = batch.sizes[k].tolist()
        assert np.array_equal(batch.images[k, :, :height, :width].permute(1, 2, 0), one.image)
        real = targets.labels[k] != IGNORE
        assert int(real.sum()) == len(one.boxes)
        assert np.array_equal(targets.boxes[k][real], one.boxes)
        assert np.array_equal(targets.labels[k][real], one.labels)
        assert np.array_equal(targets.crowd[k][real], one.crowd)
        assert np.array_equal(targets.masks[k][real], one.masks)
        assert (targets.boxes[k][~real] == 0).all()


def test_unresized_images_keep_their_pixels_and_speak_of_the_sizes_to_come():
    samples = [sample(40, 70), sample(60, 30)]
    samples[0].wanted, samples[1].mirrored = (80, 140), True
    for one in samples:
        with pytest.raises(ValueError, match="use collate_unresized"):
            collate([sample(8, 8), one])
    batch, stored, mirrored, canvas = collate_unresized(samples)
    assert batch.images.shape == (2, 3, 60, 70)
    assert np.array_equal(batch.images[0, :, :40, :70].permute(1, 2, 0), samples[0].image)
    assert stored.tolist() == [[40, 70], [60, 30]]
    assert mirrored.tolist() == [False, True]
    assert batch.sizes.tolist() == [[80, 140], [60, 30]]
    assert canvas.tolist() == [96, 160]

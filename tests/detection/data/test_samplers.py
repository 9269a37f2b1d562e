import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.data.samplers import EvalBatchSampler, TrainBatchSampler

SIZES = np.array([[480, 640], [640, 480]] * 20)


def epoch_of(sampler, epoch):
    sampler.start(epoch)
    return list(sampler)


def test_an_epoch_shows_images_once_and_epochs_differ():
    sampler = TrainBatchSampler(SIZES, 4)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 1)
    assert sorted(index for batch in first for index, _ in batch) == list(range(40))
    assert {epoch for batch in second for _, epoch in batch} == {1}
    assert [[i for i, _ in batch] for batch in first] != [[i for i, _ in batch] for batch in second]
    assert first == epoch_of(TrainBatchSampler(SIZES, 4), 0)
    assert first != epoch_of(TrainBatchSampler(SIZES, 4, seed=1), 0)


def test_batches_hold_one_orientation():
    for batch in epoch_of(TrainBatchSampler(SIZES, 4), 0):
        assert len({index % 2 for index, _ in batch}) == 1


def test_little_of_a_canvas_is_wasted():
    # Heights and widths as cameras and COCO have them: mostly 3:4 and 2:3, some square, some wide.
    generator = np.random.default_rng(0)
    ratio = generator.choice([0.75, 0.67, 1.0, 1.33, 1.5, 0.56], 4000, p=[0.4, 0.3, 0.05, 0.12, 0.08, 0.05])
    sizes = np.stack([640 * ratio.clip(max=1), 640 / ratio.clip(min=1)], axis=1) * generator.uniform(
        0.97, 1.03, (4000, 2)
    )
    scaled = np.minimum(800 / sizes.min(1), 1333 / sizes.max(1))[:, None] * sizes

    def useful(group):
        used = padded = 0.0
        for batch in epoch_of(TrainBatchSampler(sizes, 16, group=group), 0):
            members = scaled[[index for index, _ in batch]]
            used += members.prod(axis=1).sum()
            padded += 16 * np.prod(np.ceil(members.max(axis=0) / 32) * 32)
        return used / padded

    assert useful(True) > 0.93
    assert useful(False) < 0.8


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 50), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_ranks_get_equal_numbers_and_different_images(count, batch_size, world_size, epoch):
    sizes = SIZES[np.arange(count) % 3]
    ranks = [epoch_of(TrainBatchSampler(sizes, batch_size, 0, rank, world_size), epoch) for rank in range(world_size)]
    sampler = TrainBatchSampler(sizes, batch_size, 0, 0, world_size)
    assert {len(batches) for batches in ranks} == {len(sampler)}
    assert all(len(batch) == batch_size for batches in ranks for batch in batches)
    seen = [index for batches in ranks for batch in batches for index, _ in batch]
    if count >= batch_size * world_size:
        assert len(set(seen)) == len(seen)
    else:
        assert set(seen) == set(range(count))


@pytest.mark.parametrize("position", [0, 1, 7, 10])
def test_starting_anywhere_gives_the_rest(position):
    whole = epoch_of(TrainBatchSampler(SIZES, 4), 2)
    sampler = TrainBatchSampler(SIZES, 4)
    sampler.start(2, 4 * position)
    assert list(sampler) == whole[position:]
    sampler.set_epoch(3)
    assert list(sampler) == epoch_of(TrainBatchSampler(SIZES, 4), 3)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4)]), st.integers(0, 3))
def test_a_step_has_the_same_images_however_it_is_shared_out(shared, epoch):
    world, accumulated = shared
    ranks = [
        epoch_of(TrainBatchSampler(SIZES, 8 // world // accumulated, 0, rank, world, accumulated=accumulated), epoch)
        for rank in range(world)
    ]
    flat = [pair for batches in zip(*ranks, strict=True) for batch in batches for pair in batch]
    assert flat == [pair for batch in epoch_of(TrainBatchSampler(SIZES, 8), epoch) for pair in batch]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.sampled_from([1, 2, 4, 5, 8]), st.sampled_from([1, 2, 4, 5, 8]))
def test_another_batch_goes_on_with_the_next_image(steps, before, now):
    first, second = TrainBatchSampler(SIZES, before), TrainBatchSampler(SIZES, now)
    seen = [index for batch in epoch_of(first, 1)[:steps] for index, _ in batch]
    second.start(1, len(seen), before)
    rest = [index for batch in second for index, _ in batch]
    assert len(rest) == second.left(1, len(seen), before) * now
    assert not set(seen) & set(rest)
    assert len(set(seen + rest)) == len(seen) + len(rest) > 40 - now
    assert len(list(second)) == len(second)  # the next one is whole again


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="no training images"):
        TrainBatchSampler(SIZES[:0], 4)


def canvases(count):
    """Three kinds, in no order."""
    return np.array([(32, 64), (64, 32), (64, 64)])[np.random.default_rng(count).integers(3, size=count)]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5))
def test_evaluation_batches_have_one_canvas_and_as_many_images_as_they_can(count, batch_size):
    sides = canvases(count)
    batches = list(EvalBatchSampler(sides, batch_size))
    assert all(len({tuple(sides[number]) for number in batch}) == 1 for batch in batches)
    kinds = np.unique(sides, axis=0, return_counts=True)[1]
    assert len(batches) == sum(-(-kinds // batch_size))
    assert [batch[0] for batch in batches] == sorted(batch[0] for batch in batches)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
def test_evaluation_sees_every_image_and_none_twice_but_fillers(count, batch_size, world_size):
    shares = [
        list(itertools.chain(*EvalBatchSampler(canvases(count), batch_size, r, world_size))) for r in range(world_size)
    ]
    assert set(itertools.chain(*shares)) == set(range(count))
    assert all(shares)
    fillers = sum(share == [count - 1] for share in shares)
    assert sum(map(len, shares)) - count <= fillers
    sampler = EvalBatchSampler(canvases(count), batch_size, 0, world_size)
    assert len(list(sampler)) == len(sampler)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
def test_evaluation_batches_are_the_same_for_any_number_of_ranks(count, batch_size, world_size):
    alone = set(map(tuple, EvalBatchSampler(canvases(count), batch_size)))
    together = [
        set(map(tuple, EvalBatchSampler(canvases(count), batch_size, r, world_size))) for r in range(world_size)
    ]
    assert alone <= set().union(*together)
    assert set().union(*together) - alone <= {(count - 1,)}


def test_a_new_sampler_begins_with_the_first_epoch():
    assert list(TrainBatchSampler(SIZES, 4)) == epoch_of(TrainBatchSampler(SIZES, 4), 0)
    assert list(TrainBatchSampler(SIZES, 4)) == epoch_of(TrainBatchSampler(SIZES, 4, 0, 0, 1, True, 1), 0)
    sampler = TrainBatchSampler(SIZES, 4)
    first = list(sampler)
    assert list(sampler) == first  # until the epoch is set
    sampler.start(0, 8)
    sampler.set_epoch(0)
    assert list(sampler) == first[2:]
    assert (sampler.step_images, len(sampler)) == (4, 10)


@pytest.mark.parametrize(("images", "batches"), [(3, 1), (4, 1), (7, 1), (8, 2)])
def test_an_epoch_has_at_least_one_step(images, batches):
    sampler = TrainBatchSampler(SIZES[:images], 4)
    assert len(sampler) == len(list(sampler)) == batches
    accumulating = TrainBatchSampler(SIZES[:images], 2, accumulated=2)
    assert len(accumulating) == len(list(accumulating)) == 2 * batches

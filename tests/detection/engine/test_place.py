"""The position of a training in its data, without a trainer."""

import numpy as np
import pytest

from detection.data.samplers import TrainBatchSampler
from detection.engine.place import Place


def sampler(batch_size, world_size=1, accumulated=1):
    return TrainBatchSampler(np.full((8, 2), 32), batch_size, 0, 0, world_size, accumulated=accumulated)


STATE = {"epoch": 3, "images": 4, "grouped": 2, "step_images": 2, "accumulated": 1}


@pytest.mark.parametrize(("batch", "ranks", "accumulated"), [(4, 1, 1), (2, 2, 1), (1, 2, 2), (1, 1, 4)])
def test_images_are_counted_whatever_makes_a_step(batch, ranks, accumulated):
    place, batches = Place(4), sampler(batch, ranks, accumulated)
    images = 2 * batch * ranks
    found = place.state(3, 2, batches)
    assert found == {"epoch": 3, "images": images, "grouped": 4, "step_images": 4, "accumulated": accumulated}


def test_a_resumed_epoch_begins_after_its_images_and_the_next_at_its_start():
    place, batches = Place(2), sampler(2)
    place.resume(STATE)
    assert place.batches_done(batches) == 2
    assert place.next_epoch(3, batches, len(batches)) == (3, 4, 2)
    assert place.next_epoch(4, batches, len(batches)) == (4, 0, 2)
    assert not place.is_over(4)
    assert place.is_over(5)
    assert place.state(5, 4, batches)["epoch"] == 4  # between two epochs it is still the one that has ended


def test_an_epoch_that_begins_again_has_no_images_behind_it():
    place, batches = Place(2), sampler(2)
    place.resume(STATE)
    place.restart_epoch(3)
    assert place.next_epoch(3, batches, len(batches)) == (3, 0, 2)
    assert place.state(3, 1, batches)["images"] == 2


def test_a_new_run_begins_at_its_first_image():
    place, batches = Place(2), sampler(2)
    place.restart_epoch(5)  # which only a resumed run can
    assert place.batches_done(batches) == 0
    assert place.next_epoch(0, batches, len(batches)) == (0, 0, 2)

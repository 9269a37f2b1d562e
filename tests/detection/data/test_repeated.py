"""Repeated augmentation and RandAugment with random magnitudes."""

from collections import Counter

import numpy as np
import pytest
import torch

from detection.data.labelled import from_folders
from detection.data.labelled_dataset import LabelledDataset, random_numbers
from detection.data.randaugment import VariedRandAugment
from detection.data.repeated import RepeatedBatchSampler
from detection.data.samplers import TrainBatchSampler
from detection.engine.classify.data_config import LabelledConfig
from tests.support.labelled import write_digits

SIZES = np.full((50, 2), 32)


def step(sampler):
    return list(sampler)


def test_a_step_has_copies_with_keys_of_their_own():
    sampler = RepeatedBatchSampler(SIZES, 12, 3, seed=1)
    sampler.start(2)
    batches = step(sampler)
    assert len(batches) == len(sampler) == 50 // 12
    for batch in batches:
        images = Counter(index for index, _ in batch)
        assert set(images.values()) == {3}
        assert {key for _, key in batch} == {6, 7, 8}
        assert len(set(batch)) == 12
        assert all(one[0] != other[0] for one, other in zip(batch, batch[1:] + batch[:1], strict=True))  # mixing pairs
    seen = [index for batch in batches for index, _ in batch]
    assert len(set(seen)) == 16
    sampler.start(3)
    assert {index for batch in sampler for index, _ in batch} != set(seen)


def test_copies_are_on_different_ranks_and_a_step_is_the_same_for_any_number_of_them():
    one = step(RepeatedBatchSampler(SIZES, 12, 2, seed=1))
    two = [step(RepeatedBatchSampler(SIZES, 6, 2, seed=1, rank=rank, world_size=2)) for rank in (0, 1)]
    for whole, first, second in zip(one, *two, strict=True):
        assert whole == first + second
        assert len({index for index, _ in first}) == 6


def test_a_resumed_epoch_continues_with_the_next_image():
    sampler = RepeatedBatchSampler(SIZES, 12, 3, seed=1)
    whole = step(sampler)
    sampler.start(0, images=24)
    assert step(sampler) == whole[2:]
    assert sampler.left(0, 24, 12) == 2


@pytest.mark.parametrize(("count", "batch", "repeats"), [(50, 10, 3), (4, 12, 3), (3, 8, 2), (5, 12, 12)])
def test_any_number_of_images_fills_its_steps(count, batch, repeats):
    sampler = RepeatedBatchSampler(np.full((count, 2), 32), batch, repeats)
    batches = step(sampler)
    plain = step(TrainBatchSampler(np.full((count, 2), 32), batch, group=False))
    assert [len(one) for one in batches] == [len(one) for one in plain]
    assert all(0 <= index < count and 0 <= key < repeats for one in batches for index, key in one)


def test_copies_of_an_image_are_augmented_differently(tmp_path):
    images = from_folders(write_digits(tmp_path / "digits", 3, classes=2))
    data = LabelledDataset(images, LabelledConfig(size=24, resize=24, repeats=2).transform("train"))
    [batch, *_] = step(RepeatedBatchSampler(np.full((6, 2), 32), 4, 2))
    first, second = (data[key][0] for key in batch if key[0] == batch[0][0])
    assert not torch.equal(first, second)


def test_magnitudes_are_drawn_for_each_operation(monkeypatch):
    transform = VariedRandAugment(21, 1.5)
    seen = []
    inner = transform._apply_image_or_video_transform

    def noted(image, name, magnitude, **others):
        seen.append((name, transform.magnitude))
        return inner(image, name, magnitude, **others)

    monkeypatch.setattr(transform, "_apply_image_or_video_transform", noted)
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    with random_numbers(0):
        for _ in range(300):
            assert transform(image).shape == image.shape
    magnitudes = np.array([magnitude for _, magnitude in seen])
    assert len(magnitudes) == 600
    assert magnitudes.mean() == pytest.approx(21, abs=0.2)
    assert magnitudes.std() == pytest.approx((1.5**2 + 1 / 12) ** 0.5, abs=0.15)  # rounding adds 1 / 12
    with random_numbers(0):
        assert torch.equal(transform(image), _again(transform, image))


def _again(transform, image):
    with random_numbers(0):
        return transform(image)


def test_magnitudes_stay_in_range_and_without_deviation_are_fixed():
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    wide, fixed = VariedRandAugment(28, 20.0), VariedRandAugment(9, 0.0)
    for _ in range(50):
        wide(image)
        fixed(image)
        assert 0 <= wide.magnitude <= 30
        assert fixed.magnitude == 9


def test_wrong_settings_are_rejected():
    with pytest.raises(ValueError, match=r"data\.repeats 300 must be 1 to data\.batch_size"):
        LabelledConfig(repeats=300).check()
    with pytest.raises(ValueError, match="randaugment_deviation must not be below 0"):
        LabelledConfig(randaugment_deviation=-1.0).check()


def test_random_numbers_of_a_key_leave_the_others_as_they_were():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with random_numbers(1, 2):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with random_numbers(1, 2):
        assert torch.equal(torch.rand(2), inside)
    with random_numbers(1, 3):
        assert not torch.equal(torch.rand(2), inside)

import numpy as np
import pytest
from torch.utils.data import DataLoader

from detection.data.annotations import load_annotations
from detection.data.dataset import CocoDataset
from detection.data.samplers import TrainBatchSampler
from detection.data.transforms import HorizontalFlip, RandomCrop, Resize


def augmented(path, seed=0):
    transforms = [HorizontalFlip(0.5), RandomCrop(40, 40), Resize([32, 48, 64], 100)]
    return CocoDataset(load_annotations(path), path.parent / "images", transforms, masks=True, seed=seed)


def equal(one, other):
    same = np.array_equal(one.image, other.image) and np.array_equal(one.boxes, other.boxes)
    return same and np.array_equal(one.masks, other.masks) and np.array_equal(one.labels, other.labels)


def test_a_sample_holds_what_the_file_says(small):
    sample = CocoDataset(load_annotations(small), small.parent / "images", masks=True)[0]
    assert sample.image.shape == (60, 80, 3)
    assert sample.original_size == (60, 80)
    assert sample.image_id == 100
    assert sample.boxes[0].tolist() == [10, 20, 30, 30]
    assert sample.boxes.dtype == np.float32
    assert sample.masks.shape == (2, 112, 112)
    assert sample.masks[0].all()  # a square fills its box
    assert not sample.masks[1][50:62, 50:62].any()  # a ring does not fill its middle


def test_a_sample_depends_on_seed_epoch_and_image_alone(small):
    first, again, other = augmented(small), augmented(small), augmented(small, seed=1)
    assert all(equal(first[(i, 3)], again[(i, 3)]) for i in (3, 1, 0, 2))
    assert not all(equal(first[(i, 3)], first[(i, 4)]) for i in range(4))
    assert not all(equal(first[(i, 3)], other[(i, 3)]) for i in range(4))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_change_nothing(small, context):
    dataset = augmented(small)
    sampler = TrainBatchSampler(dataset.annotations.sizes, 2)
    alone = [sample for batch in DataLoader(dataset, batch_sampler=sampler, collate_fn=list) for sample in batch]
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=list, num_workers=2, multiprocessing_context=context)
    shared = [sample for batch in loader for sample in batch]
    assert len(alone) == 4
    assert all(equal(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd"])
def test_names_that_lead_out_of_the_folder_are_refused(write_dataset, tmp_path, name):
    image = {"id": 1, "file_name": name, "height": 4, "width": 4}
    path = write_dataset(tmp_path, images=[image], annotations=[])
    with pytest.raises(ValueError, match=r"image 1 has file_name .* leads out of the image folder"):
        CocoDataset(load_annotations(path), tmp_path / "images")[0]


def test_a_wrong_size_names_both(write_dataset, tmp_path):
    path = write_dataset(tmp_path, images=[{"id": 1, "file_name": "0.png", "height": 10, "width": 10}], annotations=[])
    with pytest.raises(ValueError, match=r"0\.png: is 60 x 80 .* annotations say 10 x 10"):
        CocoDataset(load_annotations(path), tmp_path / "images")[0]

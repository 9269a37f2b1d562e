import os

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from detection.coco.annotations import load_annotations
from detection.data import dataset as dataset_module
from detection.data.dataset import CocoDataset, begin_worker
from detection.data.presence import check_images
from detection.data.reading import Reading
from detection.data.samplers import TrainBatchSampler
from detection.data.transforms import HorizontalFlip, RandomCrop, Resize
from detection.ops.masks import UNKNOWN


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
    assert all(equal(first[i], again[(i, 0)]) for i in range(4))
    assert not all(equal(first[i], again[(i, 1)]) for i in range(4))
    assert not all(equal(first[(i, 3)], other[(i, 3)]) for i in range(4))


def test_masks_drawn_together_are_those_drawn_alone(small):
    dataset = augmented(small)
    keys = [(i, epoch) for epoch in range(4) for i in (3, 0, 2, 1)]
    together = dataset.__getitems__(keys)
    assert {len(sample.boxes) for sample in together} >= {0, 1, 2}
    assert all(equal(sample, dataset[key]) for sample, key in zip(together, keys, strict=True))


def test_an_error_in_drawing_masks_names_the_images(small, monkeypatch):
    def fail(*_):
        raise MemoryError("none left")

    monkeypatch.setattr(dataset_module, "draw_masks", fail)
    with pytest.raises(
        ValueError, match=r"images.0.png, .*images.2.png: augmentation failed with MemoryError: none left"
    ):
        augmented(small).__getitems__([0, 2])


def test_no_mask_is_learned_from_a_crowd(small):
    crowd = CocoDataset(load_annotations(small), small.parent / "images", masks=True)[1]
    assert crowd.crowd.tolist() == [True]
    assert (crowd.masks == UNKNOWN).all()


def test_a_worker_keeps_what_images_leave_behind(small, monkeypatch):
    kept = torch.zeros(1).share_memory_()
    monkeypatch.setattr(dataset_module, "keep_freed_pieces", lambda: kept.add_(1))
    data = CocoDataset(load_annotations(small), small.parent / "images")
    list(DataLoader(data, 2, num_workers=1, collate_fn=list, worker_init_fn=begin_worker))
    assert kept == 1


@pytest.mark.parametrize(
    ("workers", "context"), [(2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)]
)  # a spawned one imports everything
def test_workers_change_nothing(small, workers, context):
    dataset = augmented(small)
    sampler = TrainBatchSampler(dataset.annotations.sizes, 2)
    alone = [sample for batch in DataLoader(dataset, batch_sampler=sampler, collate_fn=list) for sample in batch]
    loader = DataLoader(
        dataset, batch_sampler=sampler, collate_fn=list, num_workers=workers, multiprocessing_context=context
    )
    shared = [sample for batch in loader for sample in batch]
    assert len(alone) == 4
    assert all(equal(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "\\etc\\passwd"])
def test_names_that_lead_out_of_the_folder_are_refused(write_dataset, tmp_path, name):
    image = {"id": 1, "file_name": name, "height": 4, "width": 4}
    path = write_dataset(tmp_path, images=[image], annotations=[])
    with pytest.raises(ValueError, match=r"image 1 has file_name .* points outside the image folder"):
        CocoDataset(load_annotations(path), tmp_path / "images")[0]


@pytest.mark.skipif(os.name == "nt", reason="there, both are the same")
def test_a_backslash_is_a_slash_where_that_file_exists(write_dataset, tmp_path):
    image = {"id": 100, "file_name": "deep\\0.png", "height": 60, "width": 80}
    (tmp_path / "images" / "deep").mkdir(parents=True)
    data = CocoDataset(load_annotations(write_dataset(tmp_path, images=[image], annotations=[])), tmp_path / "images")
    with pytest.raises(FileNotFoundError, match=r"0\.png; no file matches with other Unicode forms"):
        check_images(data)
    (tmp_path / "images" / "0.png").rename(tmp_path / "images" / "deep" / "0.png")
    check_images(data)
    assert data[0].image.shape == (60, 80, 3)
    (tmp_path / "images" / "deep\\0.png").touch()  # such a name is possible, and goes first
    assert data.path(0).name == "deep\\0.png"


def test_a_wrong_size_names_both(write_dataset, tmp_path):
    path = write_dataset(tmp_path, images=[{"id": 1, "file_name": "0.png", "height": 10, "width": 10}], annotations=[])
    with pytest.raises(ValueError, match=r"0\.png: is 60 x 80 .* annotations say 10 x 10"):
        CocoDataset(load_annotations(path), tmp_path / "images")[0]


@pytest.mark.parametrize(("side", "reduce"), [(200, 1), (120, 2), (60, 4), (20, 8)])
def test_a_draft_is_the_same_scene(write_dataset, tmp_path, side, reduce):
    generator = np.random.default_rng(0)
    pixels = cv2.resize(generator.integers(0, 255, (3, 4, 3), np.uint8), (361, 241), interpolation=cv2.INTER_CUBIC)
    path = write_dataset(
        tmp_path,
        images=[{"id": 1, "file_name": "a.jpg", "height": 241, "width": 361}],
        annotations=[
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [100, 50, 121, 80], "iscrowd": 0, "area": 9680}
        ],
    )
    cv2.imwrite(str(path.parent / "images" / "a.jpg"), pixels)
    transforms = [HorizontalFlip(1.0), Resize(side, 400)]
    whole, draft = (
        CocoDataset(load_annotations(path), path.parent / "images", transforms, draft=draft) for draft in (False, True)
    )
    reduced = draft.scene(0)
    assert reduced.image.shape[0] == -(-241 // reduce)
    scale = np.tile(np.divide(reduced.image.shape[1::-1], (361, 241)), 2)
    assert reduced.boxes == pytest.approx(whole.scene(0).boxes * scale)
    one, other = whole[0], draft[0]
    assert np.abs(np.subtract(one.image.shape, other.image.shape)).max() <= 1  # sides are rounded twice
    same = cv2.resize(other.image, one.image.shape[1::-1])
    # Two ways of reducing blur differently; a picture in another place would be off by its contrast.
    assert np.abs(one.image.astype(int) - same).mean() < 0.15 * one.image.std()
    assert np.abs(one.image.astype(int) - same[:, ::-1]).mean() > 0.6 * one.image.std()
    assert np.allclose(one.boxes, other.boxes, atol=1)
    assert one.original_size == other.original_size == (241, 361)


def test_transforms_that_count_in_pixels_of_the_file_get_no_draft(small):
    transforms = [RandomCrop(40, 40), Resize(8, 100)]
    dataset = CocoDataset(load_annotations(small), small.parent / "images", transforms, draft=True)
    assert dataset.scene(0).image.shape[:2] == tuple(dataset.annotations.sizes[0])


def test_no_worker_reads_an_image_at_first(small):
    data = CocoDataset(load_annotations(small), small.parent / "images", [])
    assert data.reading_now() == {}


@pytest.mark.parametrize(
    ("draft", "reading", "reduced"),
    [(True, Reading(), True), (False, Reading(), False), (True, Reading(channels=1), False),
     (True, Reading(depth=16), False)],
)  # fmt: skip
def test_only_rgb_of_8_bits_is_decoded_at_a_reduced_size(small, draft, reading, reduced):
    annotations = load_annotations(small)
    assert CocoDataset(annotations, small.parent / "images", [], reading=reading, draft=draft).pipeline.draft == reduced

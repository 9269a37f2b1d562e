import json
import math
import random
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch.utilities.seed import isolate_rng

from detection.categories import Categories
from detection.data import dataset
from detection.data.collate import few_canvases_for
from detection.data.copy_paste import CopyPaste
from detection.data.jitter import JitterConfig
from detection.data.mosaic import Mosaic
from detection.data.sample import Unresized
from detection.data.transforms import HorizontalFlip, Resize
from detection.engine import loaders
from detection.engine.datamodule import CocoDataModule, Split
from detection.engine.errors import InputError
from detection.engine.loaders import begin_training_worker
from detection.engine.module import DetectionModule

TRAIN = Split("train", "annotations/instances_train.json")
VAL = Split("val", "annotations/instances_val.json")


def make(root, trainer=None, **options):
    data = CocoDataModule(str(root), TRAIN, VAL, **{"short_side": 64, "long_side": 96, "workers": 0, **options})
    defaults = {
        "world_size": 1,
        "global_rank": 0,
        "accumulate_grad_batches": 1,
        "is_global_zero": False,
        "limit_train_batches": 1.0,
        "limit_val_batches": 1.0,
        "val_check_interval": 1.0,
        "check_val_every_n_epoch": 1,
        "current_epoch": 0,
        "strategy": SimpleNamespace(root_device=torch.device("cpu")),
    }
    data.trainer = SimpleNamespace(**{**defaults, **(trainer or {})})
    return data


@pytest.fixture
def copy(shapes, tmp_path):
    """The data set, to be spoilt."""
    return shutil.copytree(shapes, tmp_path / "copy")


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_classes_come_from_the_annotations(shapes):
    data = make(shapes)
    data.setup("fit")
    written = json.loads((shapes / VAL.annotations).read_text())["categories"]
    assert data.categories.names == tuple(category["name"] for category in written)
    assert data.categories.ids == tuple(category["id"] for category in written)


def test_without_a_mask_to_learn_from_there_is_no_mask_head(copy):
    def bare(content):
        for annotation in content["annotations"]:
            annotation["segmentation"] = []

    change(copy / TRAIN.annotations, bare)
    with pytest.raises(InputError, match=r"has no masks; .* --model\.mask_head null"):
        make(copy, masks=True).setup("fit")
    make(copy).setup("fit")
    make(copy, masks=True).setup("validate")


@pytest.mark.parametrize("flip", [-0.1, 2, math.nan])
def test_a_flip_is_a_probability(shapes, flip):
    with pytest.raises(InputError, match=r"data\.flip .* from 0 to 1"):
        make(shapes, flip=flip)


def test_batches_are_shared_out(shapes):
    shares = []
    for rank in range(2):
        data = make(shapes, {"world_size": 2, "global_rank": rank, "accumulate_grad_batches": 2}, batch_size=4)
        data.setup("fit")
        assert (data.device_batch, data.steps_per_epoch) == (1, 2)  # 8 images, 4 a step
        batches = list(data.train_dataloader())
        assert [len(batch.images) for batch in batches] == [1, 1, 1, 1]
        shares.append([int(batch.image_ids[0]) for batch in batches])
    assert len({*shares[0], *shares[1]}) == 8


def test_evaluation_sees_each_image_once(shapes):
    found = []
    for rank in range(3):  # 4 images over 3 ranks
        data = make(shapes, {"world_size": 3, "global_rank": rank}, eval_batch_size=2)
        data.setup("validate")
        found += [int(i) for batch in data.val_dataloader() for i in batch.image_ids]
    assert len(set(found)) == 4


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"world_size": 3}, "16 cannot be divided among 3 devices x 1 accumulated batch; try 15 or 18"),
        ({"accumulate_grad_batches": 32}, "among 1 device x 32 accumulated batches; try 32$"),
        ({"val_check_interval": 50}, r"50 is more than the batches of an epoch, \d; .*check_val_every_n_epoch null"),
    ],
)
def test_batches_that_do_not_fit(shapes, trainer, message):
    with pytest.raises(InputError, match=message):
        make(shapes, trainer).setup("fit")


@pytest.mark.parametrize("counted", [{"check_val_every_n_epoch": None}, {"limit_val_batches": 0}])
def test_a_validation_may_be_later_than_an_epoch(shapes, counted):
    make(shapes, {"val_check_interval": 50} | counted).setup("fit")


def test_training_goes_on_at_the_next_batch(shapes):
    whole = make(shapes, batch_size=2)
    whole.setup("fit")
    epoch = [batch.image_ids.tolist() for batch in whole.train_dataloader()]
    rest = make(shapes, batch_size=2)
    rest.setup("fit")
    rest.load_state_dict({"epoch": 0, "images": 6, "grouped": 2, "step_images": 2, "accumulated": 1})
    loader = rest.train_dataloader()
    assert [batch.image_ids.tolist() for batch in loader] == epoch[3:]
    rest.trainer.current_epoch = whole.trainer.current_epoch = 1
    after = [batch.image_ids.tolist() for batch in loader]
    assert len(after) == 4
    assert after == [batch.image_ids.tolist() for batch in whole.train_dataloader()] != epoch


def test_a_finished_epoch_is_not_repeated(shapes):
    data = make(shapes, batch_size=2)
    data.setup("fit")
    data.load_state_dict({"epoch": 4, "images": 8, "grouped": 2, "step_images": 2, "accumulated": 1})
    data.trainer.current_epoch = 4  # Lightning counts it up after it has started the workers
    assert data._next_epoch() == (5, 0, 2)


def test_where_training_is(shapes):
    trainer = {"current_epoch": 3, "fit_loop": SimpleNamespace(batch_idx=2)}
    data = make(shapes, trainer, batch_size=2)
    data.setup("fit")
    state = {"epoch": 3, "images": 6, "grouped": 2, "step_images": 2, "accumulated": 1}
    assert data.state_dict() == state
    # With another batch, after one image was left over: 1 + 1 batch of 4.
    other = make(shapes, {"current_epoch": 3, "fit_loop": SimpleNamespace(batch_idx=1)}, batch_size=4)
    other.setup("fit")
    other.load_state_dict({**state, "images": 4})
    assert other.batches_done == 1
    assert other.state_dict() == {"epoch": 3, "images": 8, "grouped": 2, "step_images": 4, "accumulated": 1}


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (
            "annotations/instances_val.json",
            "no annotations .*instances_val.json; set data.root or data.val.annotations",
        ),
        ("train", "no folder of images .*train; set data.root or data.train.images"),
    ],
)
def test_what_is_missing_is_named(copy, gone, message):
    path = copy / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=message):
        make(copy).setup("fit")


def test_missing_images_are_counted(copy):
    for path in sorted((copy / "train").iterdir())[:2]:
        path.unlink()
    with pytest.raises(InputError, match=r"2 of 8 images are missing, first .*001000.jpg"):
        make(copy).setup("fit")


def test_splits_of_other_classes_are_refused(copy):
    change(copy / "annotations/instances_val.json", lambda c: c["categories"][0].update(name="disc"))
    with pytest.raises(InputError, match=r"different categories(.|\n)*id 3: 'circle' and 'disc'"):
        make(copy).setup("fit")
    make(copy).setup("validate")  # which reads one file only


def test_unusable_annotations_are_told_in_a_line(copy):
    (copy / "annotations/instances_train.json").write_text("{")
    with pytest.raises(InputError, match=r"instances_train.json"):
        make(copy).setup("fit")


def test_crowds_alone_are_rejected_like_no_objects(copy):
    def crowds(content):
        for entry in content["annotations"]:
            entry["iscrowd"] = 1

    change(copy / "annotations/instances_train.json", crowds)
    with pytest.raises(
        InputError, match=r"no usable object to train on; all \d+ objects are crowds; .*set iscrowd to 0"
    ):
        make(copy).setup("fit")
    change(copy / "annotations/instances_train.json", lambda c: c["annotations"].clear())
    with pytest.raises(InputError, match=r"no usable object to train on; annotate some"):
        make(copy).setup("fit")


def test_a_run_prints_what_is_doubtful_about_its_data(copy, capsys):
    def doubtful(content):
        for entry in content["annotations"]:
            x, y, w, h = entry["bbox"]
            entry |= {"bbox": [x, y, x + w, y + h], "iscrowd": 0}
        content["annotations"].append(content["annotations"][0] | {"id": 10**6})

    change(copy / "annotations/instances_train.json", doubtful)
    change(copy / "annotations/instances_val.json", lambda c: [a.update(iscrowd=1) for a in c["annotations"]])
    make(copy, {"is_global_zero": True}).setup("fit")
    out = capsys.readouterr().out
    assert "warning: the boxes look like left, top, right, bottom in pixels" in out
    assert "1 object that is annotated twice, with the same class, box and mask" in out
    assert re.search(r"val: warning: all \d+ objects are crowds: nothing can be scored, AP is n/a", out)


@pytest.mark.parametrize("absent", [["annotations"], ["annotations", "categories"]])
def test_images_alone_can_be_predicted_but_not_scored(copy, absent, monkeypatch):
    change(copy / "annotations/instances_val.json", lambda c: [c.pop(key) for key in absent])
    known = Categories(("a", "b"), (4, 9))
    monkeypatch.setattr("detection.engine.datamodule.load_pretrained", lambda name: SimpleNamespace(categories=known))
    data = make(copy)
    data.detector = "a.ckpt"
    data.setup("predict")
    assert len(data.predict_dataloader()) == 4
    assert data.ground_truth("predict")["annotations"] == []
    assert (data.categories == known) == ("categories" in absent)
    for stage in ("fit", "validate"):
        with pytest.raises(
            InputError, match=r"instances_val.json: has no list 'annotations'; .*only prediction works without them"
        ):
            make(copy).setup(stage)


def test_without_any_classes_there_is_nothing_to_predict(copy):
    change(copy / "annotations/instances_val.json", lambda c: c.pop("categories"))
    with pytest.raises(InputError, match=r"has no list 'categories', and the detector names no classes; add the list"):
        make(copy).setup("predict")


def test_no_test_split(shapes):
    data = make(shapes)
    data.setup("predict")  # takes val
    assert len(data.predict_dataloader()) == 4
    with pytest.raises(InputError, match=r"data.test is not set"):
        make(shapes).setup("test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 100}, "short_side 100 must be above 0 and not above data.long_side 96"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"crop": (0, 10)}, r"data.crop \[0, 10\] must be a height and a width of at least 1"),
        ({"crop": (10, -5)}, r"data.crop \[10, -5\]"),
        ({"augment": [{"class_path": None}]}, "takes transforms, each as"),
    ],
)
def test_settings_that_cannot_be(shapes, options, message):
    with pytest.raises(InputError, match=message):
        make(shapes, **options)


def test_only_training_is_augmented(shapes):
    albumentations = pytest.importorskip("albumentations")
    data = make(shapes, augment=[albumentations.InvertImg(p=1)], flip=0, batch_size=1)
    data.setup("fit")
    pictures = {int(b.image_ids): b.images for b in data.train_dataloader()}
    data = make(shapes, flip=0, batch_size=1)
    data.setup("fit")
    for batch in data.train_dataloader():
        height, width = batch.sizes[0].tolist()
        inverted = 255 - batch.images[..., :height, :width]
        assert (inverted.int() - pictures[int(batch.image_ids)][..., :height, :width].int()).abs().max() <= 2
    assert not any(type(t).__name__ == "Albumentations" for t in data.val_dataloader().dataset.data.transforms)


def test_every_image_fits_one_of_few_canvases():
    canvases = few_canvases_for(800, 1333)
    assert canvases == [
        *[(800, 1088), (800, 1216), (800, 1344)],
        *[(1088, 800), (1216, 800), (1344, 800)],
        (1344, 1344),
    ]
    assert few_canvases_for(256, 512) == [(256, 352), (256, 416), (256, 512)] + [
        *[(352, 256), (416, 256), (512, 256)],
        (512, 512),
    ]
    assert few_canvases_for(256, 256)[0] == (256, 256)


def test_a_training_worker_has_the_seeds_that_lightning_gives(monkeypatch):
    kept = []
    monkeypatch.setattr(dataset, "keep_freed_pieces", lambda: kept.append("memory"))
    monkeypatch.setattr(loaders, "ignore_signals", lambda: kept.append("signals"))

    def drawn():
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    with isolate_rng():
        torch.manual_seed(7)
        pl_worker_init_function(1, 2)
        expected = drawn()
        torch.manual_seed(7)
        monkeypatch.setenv("PL_SEED_WORKERS", "1")
        begin_training_worker(1, rank=2)
        assert drawn() == expected
    assert kept == ["memory", "signals"]


def test_resizing_on_the_device_gives_the_same_batches_to_one_level(shapes):
    options = {"short_side": [48, 64], "batch_size": 2, "masks": True}
    data, later = make(shapes, **options), make(shapes, resize_on_device=True, **options)
    module = DetectionModule()
    for part in (data, later):
        part.setup("fit")
    for one, raw in zip(data.train_dataloader(), later.train_dataloader(), strict=True):
        assert isinstance(raw, Unresized)
        other = module.transfer_batch_to_device(raw, torch.device("cpu"), 0)
        assert (one.images.int() - other.images.int()).abs().max() <= 1
        for a, b in zip((*one[1:4], *(one.targets or ())), (*other[1:4], *(other.targets or ())), strict=True):
            assert a is b is None or torch.equal(a, b)
    with pytest.raises(InputError, match="resizes as opencv does"):
        make(shapes, resize_on_device=True, resize="pillow")


STRONG = {"jitter": JitterConfig((0.5, 2), (64, 64)), "copy_paste": CopyPaste(), "mosaic": Mosaic(0.5, (48, 48))}


@pytest.mark.parametrize(
    ("until", "limits", "first"),
    [
        (0.9, {"max_epochs": 12, "max_steps": -1}, 11),
        (0.75, {"max_epochs": 12, "max_steps": -1}, 9),
        (0.0, {"max_epochs": 12, "max_steps": -1}, 0),
        (1.0, {"max_epochs": 12, "max_steps": -1}, None),
        (0.5, {"max_epochs": -1, "max_steps": 24}, 3),
        (0.5, {"max_epochs": 4, "max_steps": 24}, 2),
        (0.5, {"max_epochs": -1, "max_steps": -1}, None),  # nobody knows when it ends
    ],
)
def test_strong_augmentation_ends_after_its_part_of_the_training(shapes, until, limits, first):
    data = make(shapes, limits, batch_size=2, strong_until=until, **STRONG)
    data.setup("fit")
    assert data.steps_per_epoch == 4
    data.train_dataloader()
    late = data.splits.datasets["train"].pipeline.late
    assert (late and late.epoch) == first
    if late is not None:
        assert [type(one) for one in late.transforms] == [HorizontalFlip, Resize]


def test_the_strong_samples_are_the_same_on_one_rank_and_on_two(shapes):
    def samples(world_size: int) -> dict[int, np.ndarray]:
        found = {}
        for rank in range(world_size):
            trainer = {"world_size": world_size, "global_rank": rank, "max_epochs": 2, "max_steps": -1}
            data = make(shapes, trainer, batch_size=4, **STRONG)
            data.setup("fit")
            for batch in data.train_dataloader():
                for image, number in zip(batch.images.numpy(), batch.image_ids.tolist(), strict=True):
                    found[number] = image
        return found

    one, two = samples(1), samples(2)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[number], two[number]) for number in one)


def test_copy_paste_without_a_mask_is_an_error(copy):
    def remove(content):
        for entry in content["annotations"]:
            entry.pop("segmentation", None)

    change(copy / TRAIN.annotations, remove)
    with pytest.raises(InputError, match=r"has no masks, but data\.copy_paste needs them"):
        make(copy, copy_paste=CopyPaste()).setup("fit")

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from detection.categories import Categories
from detection.engine.pictures import Pictures
from detection.sheets import sheet
from detection.structures import IGNORE, Batch, Detections, Targets


@pytest.fixture
def batch():
    images = torch.full((2, 3, 64, 96), 128, dtype=torch.uint8)
    boxes = torch.tensor([[[10.0, 10, 40, 40], [0, 0, 0, 0]]]).expand(2, -1, -1)
    labels, masks = torch.tensor([[0, IGNORE]]).expand(2, -1), torch.ones(2, 2, 8, 8, dtype=torch.uint8)
    sizes = torch.tensor([[64, 96], [60, 80]])
    return Batch(images, sizes, sizes, torch.tensor([5, IGNORE]), Targets(boxes, labels, labels < -1, masks))


def make_pictures(folder, global_zero=True, **options):
    pictures = Pictures(**options)
    annotations = SimpleNamespace(image_ids=np.array([5]), file_name=lambda k: "train/a_name.jpg")
    trainer = SimpleNamespace(
        log_dir=str(folder), is_global_zero=global_zero, sanity_checking=False, global_step=30, current_epoch=11,
        val_dataloaders=SimpleNamespace(dataset=SimpleNamespace(annotations=annotations)),
        callback_metrics={"val/bbox/AP": torch.tensor(0.361)},
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(is_last_batch=True))),
    )  # fmt: skip
    module = SimpleNamespace(model=SimpleNamespace(categories=Categories(("cat",), (1,))))
    pictures.setup(trainer, module, "fit")
    return pictures, trainer, module


def test_train_batch_is_drawn_once(batch, tmp_path):
    pictures, trainer, module = make_pictures(tmp_path)
    pictures.on_train_batch_start(trainer, module, batch, 0)
    path = tmp_path / "images/train_batch.jpg"
    assert cv2.imread(str(path)).std() > 1  # something was drawn on the grey
    path.unlink()
    pictures.on_train_batch_start(trainer, module, batch, 1)
    assert not path.exists()


def test_predictions_are_beside_the_truth_and_fillers_left_out(batch, tmp_path, monkeypatch):
    pictures, trainer, module = make_pictures(tmp_path)
    found = Detections(torch.tensor([[[5.0, 5, 30, 30]]] * 2), torch.tensor([[0.9]] * 2), torch.tensor([[0]] * 2))
    pictures.on_validation_epoch_start(trainer, module)
    pictures.on_validation_batch_end(trainer, module, {"detections": found}, batch, 0)
    assert len(pictures._pairs) == 1
    sheets = []
    monkeypatch.setattr("detection.engine.pictures.sheet", lambda *given: sheets.append(given) or sheet(*given))
    pictures.on_validation_end(trainer, module)
    (cells, title), *_ = sheets
    assert title == "step 30, box AP 36.1"
    assert [caption for caption, _ in cells[0]] == ["a_name.jpg, ground truth", "prediction"]
    trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = False
    pictures.on_validation_end(trainer, module)
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"val_epoch_012.jpg", "val_step_000030.jpg"}
    for path in (tmp_path / "images").iterdir():
        assert max(cv2.imread(str(path)).shape) <= 1600


def test_other_ranks_draw_nothing(batch, tmp_path):
    pictures, trainer, module = make_pictures(tmp_path, global_zero=False)
    pictures.on_train_batch_start(trainer, module, batch, 0)
    assert not list(tmp_path.iterdir())

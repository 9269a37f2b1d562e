"""Images of six channels and 16 bits in reading, training, evaluation and drawing."""

import json

import cv2
import numpy as np
import pytest

from detection.cli import main
from detection.inference import load_model, predict, predict_batch
from tests.support.commands import evaluate as evaluate_tool
from tests.support.commands import predict as predict_tool


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shapes, tiny_config):
    """The drawn shapes, each image saved again with six channels of 16 bits; and a run on them."""
    root = tmp_path_factory.mktemp("bands")
    for split in ("train", "val"):
        (root / split).mkdir()
        (root / "annotations").mkdir(exist_ok=True)
        whole = json.loads((shapes / "annotations" / f"instances_{split}.json").read_text())
        for image in whole["images"]:
            pixels = cv2.imread(str(shapes / split / image["file_name"])).astype(np.uint16) * 257
            image["file_name"] = image["file_name"].rpartition(".")[0] + ".npy"
            np.save(root / split / image["file_name"], np.concatenate([pixels, 65535 - pixels], axis=2))
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(whole))
    code = main(
        ["fit", "--config", str(tiny_config), "--data.root", str(root), "--run.folder", str(root / "run"),
         "--model.backbone.in_channels", "6", "--data.depth", "16", "--trainer.max_epochs", "1"]
    )  # fmt: skip
    assert code == 0
    return root


@pytest.mark.slow
def test_it_trains_and_draws_what_it_sees(trained):
    picture = cv2.imread(str(trained / "run" / "images" / "train_batch.jpg"))
    assert picture.std() > 10


@pytest.mark.slow
def test_the_checkpoint_knows_what_its_images_are(trained):
    model = load_model(trained / "run" / "checkpoints" / "last.ckpt")
    assert (len(model.pixel_mean), model.depth) == (6, 16)
    path = next((trained / "val").iterdir())
    of_file, of_array = predict(model, path, 0.0), predict_batch(model, [np.load(path)], 0.0)[0]
    assert np.array_equal(of_file.boxes, of_array.boxes)
    with pytest.raises(ValueError, match=r"array \(H, W, 6\)"):
        predict(model, np.zeros((40, 50, 3), dtype=np.uint8))


def test_the_same_image_with_8_bits_gives_the_same(trained):
    model = load_model(trained / "run" / "checkpoints" / "last.ckpt")
    image = np.load(next((trained / "val").iterdir()))  # all values are multiples of 257
    fine, coarse = predict(model, image, 0.0), predict(model, (image // 257).astype(np.uint8), 0.0)
    assert len(fine) > 0
    assert np.array_equal(fine.boxes, coarse.boxes)


@pytest.mark.slow
def test_the_tools_take_such_a_checkpoint(trained, tmp_path):
    checkpoint = str(trained / "run" / "checkpoints" / "last.ckpt")
    predict_tool([checkpoint, str(trained / "val"), "--output", str(tmp_path / "found"), "--score", "0"])
    assert len(list((tmp_path / "found").glob("*.jpg"))) == 4
    annotations = str(trained / "annotations" / "instances_val.json")
    report = ["--annotations", annotations, "--images", str(trained / "val"), "--output", str(tmp_path / "report")]
    evaluate_tool([checkpoint, *report])
    assert "data:image" in (tmp_path / "report" / "report.html").read_text()

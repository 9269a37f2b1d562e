"""The detector, its export and the program of the folder find the same in special images, or nothing in all."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from backbones import BackboneConfig
from detection import predict
from detection.data.image import read_image
from detection.export import standalone
from detection.export.folder import about
from detection.export.loading import of_session
from detection.export.options import ExportOptions
from detection.models.build import build_detector
from detection.models.fcos import FCOSConfig
from detection.models.thresholds import Thresholds
from tests.support.exported_models import FPN3, ONE_STAGE, Session, mask_rcnn, program_of, spread


def with_input(channels=3, depth=8, **changes):
    """A detector for images with other channels or another depth."""
    torch.manual_seed(0)
    pixels = {} if channels == 3 else {"in_channels": channels, "mean": (120.0,) * channels, "std": (60.0,) * channels}
    body = BackboneConfig("resnet18", norm="group", width=16, **pixels)
    model = build_detector(3, body, FPN3, fcos=FCOSConfig(norm=None, prior=0.3, **ONE_STAGE | changes))
    spread(model.head.logits, 0.5)
    spread(model.head.sides, 0.5)
    torch.nn.init.ones_(model.head.sides.bias)
    model.depth, model.test_size = depth, (96, 160)
    return model.eval()


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)


def masks(norm="group"):
    model = mask_rcnn(norm).eval()
    model.test_size = (96, 160)
    return model


CASES = {
    "nothing found": (lambda: with_input(score_threshold=0.99), noise(60, 80, 3)),
    "one pixel high": (masks, noise(1, 200, 3)),
    "one pixel wide": (masks, noise(150, 1, 3)),
    "one pixel": (lambda: masks("frozen"), noise(1, 1, 3)),  # group norms amplify rounding in an image of one color
    "16 bits": (lambda: with_input(depth=16), noise(60, 80, 3, dtype=np.uint16)),
    "6 channels": (lambda: with_input(6), noise(70, 50, 6)),
    "6 channels, 16 bits, smaller": (lambda: with_input(6, 16), noise(400, 500, 6, dtype=np.uint16)),
    "gray": (lambda: with_input(1), noise(60, 80, 1)),
    "a large image": (masks, noise(700, 900, 3)),
}


def forms(model, folder, monkeypatch):
    """The export of a detector, and the program of its folder, both computed by PyTorch."""
    session = Session(model)
    session.metadata["export"] = about(model, ExportOptions())
    return of_session(session, folder / "model.onnx"), program_of(session, folder, monkeypatch)


@pytest.mark.parametrize("case", CASES)
def test_every_form_finds_the_same(case, tmp_path, monkeypatch):
    model, image = CASES[case][0](), CASES[case][1]
    exported, program = forms(model, tmp_path, monkeypatch)
    reference, loaded, found = predict(model, image, 0.1), predict(exported, image, 0.1), program.predict(image, 0.1)
    assert (len(reference) == 0) == (case == "nothing found")
    assert len(reference) == len(loaded) == len(found)
    if not found:
        return
    for boxes in (loaded.boxes, [one["box"] for one in found]):
        np.testing.assert_allclose(boxes, reference.boxes, atol=0.02)
    for scores in (loaded.scores, [one["score"] for one in found]):
        np.testing.assert_allclose(scores, reference.scores, atol=1e-4)
    assert loaded.labels.tolist() == [one["label"] for one in found] == reference.labels.tolist()
    if reference.masks is not None:
        for one, mask, other in zip(found, reference.masks, loaded.masks, strict=True):
            counts = one["mask"]["counts"]
            pixels = np.repeat(np.arange(len(counts)) % 2, counts).reshape(mask.shape[::-1]).T
            assert (pixels != mask).mean() <= 1e-3
            assert (other != mask).mean() <= 1e-3


def test_thresholds_of_the_model(tmp_path, monkeypatch):
    model = masks()
    every = predict(model, noise(60, 80, 3), 0.0)
    middle = float(np.sort(every.scores)[len(every) // 2])
    model.thresholds = Thresholds("best-f1", (middle, middle, middle), (None,) * 3, (None,) * 3, 5, 2.0)
    exported, program = forms(model, tmp_path, monkeypatch)
    found, reference = program.predict(noise(60, 80, 3), "model"), predict(model, noise(60, 80, 3), "model")
    assert 0 < len(reference) < len(every)
    np.testing.assert_allclose([one["score"] for one in found], reference.scores, atol=1e-4)
    np.testing.assert_allclose(predict(exported, noise(60, 80, 3), "model").scores, reference.scores, atol=1e-4)


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_program_turns_an_image_as_its_exif_entry_says(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(noise(20, 30, 3)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    turned = standalone.read(str(tmp_path / "a.jpg"))
    np.testing.assert_array_equal(turned, read_image(tmp_path / "a.jpg"))
    assert turned.shape == ((20, 30, 3) if turn < 5 else (30, 20, 3))


def test_the_program_reads_gray_files_as_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), noise(20, 30))
    np.testing.assert_array_equal(standalone.read(str(tmp_path / "a.png")), read_image(tmp_path / "a.png"))

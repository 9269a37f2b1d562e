"""An export that resizes images itself finds what the detector finds, in pixels of the image."""

import json
from dataclasses import asdict
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from detection import evaluate, fast, predict
from detection.commands.main import main
from detection.export import loading, standalone
from detection.export.folder import about, export_folder
from detection.export.full_masks import check_full
from detection.export.gate import run_gate
from detection.export.images import synthetic_images
from detection.export.loading import load_exported, of_session
from detection.export.options import ExportOptions
from detection.export.program import check_resizing, exportable
from detection.export.resizing import Resizing
from detection.export.whole_image import InImage
from detection.models.mask_forms import has_rounded_frames
from detection.shapes import write_shapes
from detection.structures import Categories
from tests.support.exported_models import HEADS, MODELS, Session, program_of


class Whole(Session):
    """Resizes, detects, and leads back to the image with PyTorch, as the parts of a file do."""

    def __init__(self, model, masks="frames"):
        super().__init__(exportable(model), model)
        self.full, self.resize = masks == "full", Resizing(*model.test_size, model.resize, model.stride)
        self.metadata["export"] = about(model, ExportOptions(preprocess="inside", masks=masks))

    def run(self, images, sizes=None):
        images = torch.from_numpy(images)
        canvas, sizes = self.resize(images)
        found = [torch.from_numpy(x) for x in super().run(canvas.numpy(), sizes.numpy())]
        parts = (found[2], found[3]) if self.full else ()
        boxes, *full = InImage(has_rounded_frames(self.model))(images, sizes, found[0], *parts)
        return [x.numpy() for x in (boxes, *found[1:], *full)]


@pytest.fixture(scope="module", params=["mask_rcnn", "retinanet"])
def model(request):
    model = fast.convert(MODELS[request.param]()).eval()
    model.categories, model.test_size = Categories(("circle", "square", "triangle"), (1, 2, 3)), (96, 160)
    return model


def test_it_passes_the_gate_and_batches_images_of_one_size(model):
    images = [one for one in synthetic_images(model, large=True) if "batch" in one[0] or "large" in one[0]]
    assert len(images) == 5
    gate = run_gate(model, of_session(Whole(model), "file"), images, "test")
    assert gate.passed, gate.line()
    assert sum(one.found for one in gate.differences) > 20


def test_the_program_of_the_folder_gives_the_image_to_the_file(model, tmp_path, monkeypatch):
    program = program_of(Whole(model), tmp_path, monkeypatch)
    image = np.random.default_rng(0).integers(0, 255, (300, 410, 3), np.uint8)
    found, reference = program.predict(image, 0.1), predict(model, image, 0.1)
    assert len(found) == len(reference) > 0
    np.testing.assert_allclose([one["box"] for one in found], reference.boxes, atol=0.02)
    if reference.masks is not None:
        for one, mask in zip(found, reference.masks, strict=True):
            counts = one["mask"]["counts"]
            pixels = np.repeat(np.arange(len(counts)) % 2, counts).reshape(mask.shape[::-1]).T
            assert (pixels != mask).mean() <= 1e-3


@pytest.mark.slow
def test_evaluate_tiles_and_views_give_the_same(model, tmp_path, monkeypatch):
    session, file = Whole(model), tmp_path / "model.onnx"
    file.write_bytes(b"onnx")
    monkeypatch.setattr(loading, "open_session", lambda *_: session)
    exported = load_exported(file)
    data = write_shapes(tmp_path / "data", train=1, val=3, size=120)
    options = {"workers": 0, "resamplings": 0, "device": "cpu", "pictures": 0}
    for one, name in ((model, "a"), (exported, "b")):
        evaluate(one, data, output=tmp_path / name, **options)
    ours, theirs = (json.loads((tmp_path / name / "results_bbox.json").read_text()) for name in "ab")
    assert len(ours) == len(theirs) > 10
    for one, other in zip(ours, theirs, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        np.testing.assert_allclose(one["bbox"], other["bbox"], atol=0.02)
    image = np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8)
    for more in ({"tile": 64}, {"flip": True}):
        assert predict(exported, image, 0.1, **more).names == predict(model, image, 0.1, **more).names


def test_another_size_is_an_error(model):
    exported = of_session(Whole(model), "file")
    image = np.zeros((50, 60, 3), np.uint8)
    assert predict(exported, image, size=(96, 160)) is not None
    with pytest.raises(ValueError, match="resizes images itself"):
        predict(exported, image, size=(64, 96))
    with pytest.raises(ValueError, match="resizes images itself"):
        exported.test_size = (64, 96)
    outside = of_session(Session(model), "file")
    outside.test_size = (64, 96)
    assert outside.test_size == (64, 96)
    with pytest.raises(ValueError, match="a batch needs images of one size"):
        exported(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64], [32, 64]]))


def test_full_masks_are_those_of_the_whole_image():
    model = MODELS["mask_rcnn"]().eval()
    model.test_size = (96, 160)
    images = [one for one in synthetic_images(model) if one[0] in ("one object", "odd sizes")]
    found = check_full(of_session(Whole(model, "full"), "file"), images)
    assert found.passed, found
    assert found.masks > 5


def test_formats_that_cannot_resize_are_an_error(model, tmp_path, capsys):
    command = ["export", "a.ckpt", "-o", str(tmp_path / "out"), "--preprocess", "inside"]
    for options in ([], ["--format", "torch"]):
        assert main([*command, *options]) == 2
        assert "--preprocess inside: is for --format onnx, openvino" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is for --format onnx, openvino"):
        check_resizing(model, "torch")
    other = MODELS["retinanet"]()
    other.resize = "tensor"
    check_resizing(other, "onnx")
    with pytest.raises(ValueError, match="use --format onnx"):
        check_resizing(other, "openvino")
    for name in ("keypoint_rcnn", "semantic_fpn", "panoptic_fpn"):
        with pytest.raises(ValueError, match="is for boxes and masks"):
            check_resizing(HEADS[name](), "onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "masks", "resize"),
    [("onnx", "full", "opencv"), ("openvino", "full", "opencv"), ("onnx", "frames", "tensor")],
)
def test_an_exported_file_passes_its_gate(format, masks, resize, tmp_path):
    if any(find_spec(name) is None for name in ("onnxruntime" if format == "onnx" else "openvino", "onnxscript")):
        pytest.skip(f"needs the extra {format}")
    model = fast.convert(MODELS["mask_rcnn"]()).eval()
    model.test_size, model.resize = (96, 160), resize
    options = ExportOptions(format=format, preprocess="inside", masks=masks)
    file, gate = export_folder(model, tmp_path / "exported", options)
    assert gate.passed, gate.line()
    image = np.random.default_rng(0).integers(0, 255, (333, 444, 3), np.uint8)
    reference, found = predict(model, image, 0.1), predict(load_exported(file), image, 0.1)
    assert found.names == reference.names
    np.testing.assert_allclose(found.boxes, reference.boxes, atol=0.01)
    program = standalone.Model(file.parent).predict(image, 0.1)
    np.testing.assert_allclose([one["box"] for one in program], reference.boxes, atol=0.01)
    assert asdict(gate)["full"] is None or gate.full.masks > 10

"""Masks of whole canvases in an exported file: those of the pasting code, and a gate that notices a wrong pixel."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from detection import fast
from detection.commands.main import main
from detection.export import folder as folder_module
from detection.export.folder import about, export_folder
from detection.export.full_masks import NEAR, check_full, full_masks
from detection.export.images import synthetic_images
from detection.export.loading import load_exported, of_session
from detection.export.options import ExportOptions
from detection.export.program import _Outputs, check_exportable, exportable
from detection.fast.pasting import paste_masks
from tests.support.exported_models import MODELS, Session

NAMES = ("one object", "batch of three, 1", "odd sizes")


def test_full_masks_are_the_pasted_ones():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 30, 28, 28, generator=generator)
    low = torch.rand(2, 30, 2, generator=generator) * 120 - 20
    frames = torch.cat([low, low + torch.rand(2, 30, 2, generator=generator) ** 2 * 90], dim=-1)
    frames[0, :3, 2] = frames[0, :3, 0]  # no width
    frames[1, 0] = 0
    full = full_masks(masks, frames, 96, 128)
    assert full.dtype == torch.uint8
    assert full.shape == (2, 30, 96, 128)
    for image in range(2):
        low, middle, high = (
            paste_masks(masks[image], frames[image], 96, 128, 0.5 + d).bool() for d in (-NEAR, 0.0, NEAR)
        )
        steady = low == high
        assert steady.float().mean() > 0.999
        assert torch.equal(full[image].bool()[steady], middle[steady])
    assert full[0, :3].sum() == 0
    assert full[0, 3:].sum() > 1000


def exported_of(model, change=lambda full: full):
    """An export with full masks, which PyTorch computes."""

    class Full(Session):
        def run(self, images, sizes):
            *found, full = super().run(images, sizes)
            return [*found, change(full)]

    session = Full(_Outputs(exportable(model), full=True), model)
    session.metadata["export"] = about(model, ExportOptions(masks="full"))
    return of_session(session, "file")


@pytest.fixture(
    scope="module",
    params=["mask_rcnn", *(pytest.param(n, marks=pytest.mark.slow) for n in ("cascade", "task_aligned"))],
)
def model(request):
    model = fast.convert(MODELS[request.param]()).eval()
    model.test_size = (96, 160)
    return model


def test_the_check_passes_and_notices_single_pixels(model):
    images = [one for one in synthetic_images(model) if one[0] in NAMES]
    found = check_full(exported_of(model), images)
    assert found.passed, found
    assert found.masks > 10

    def flipped(full):
        full = full.copy()
        full[0, 0, 0, 0] = 1 - full[0, 0, 0, 0]
        return full

    for change in (flipped, np.zeros_like, lambda full: np.roll(full, 1, axis=3)):
        wrong = check_full(exported_of(model, change), images)
        assert not wrong.passed
        assert wrong.pixels >= len(images)


def test_detections_are_the_same_with_and_without(model):
    images = torch.randint(0, 255, (2, 3, 96, 128), dtype=torch.uint8)
    sizes = torch.tensor([[96, 128], [80, 100]])
    found, full = exported_of(model).with_full_masks(images, sizes)
    assert full.shape == (*found.masks.shape[:2], 96, 128)
    assert full[found.labels < 0].sum() == 0
    assert torch.equal(exported_of(model)(images, sizes).masks, found.masks)


def test_a_detector_of_boxes_has_no_full_masks():
    with pytest.raises(ValueError, match="--masks full: the detector predicts only boxes"):
        check_exportable(MODELS["retinanet"](), masks="full")


@pytest.mark.parametrize("options", [["--format", "safetensors"], ["--format", "onnx", "--int8", "--calibration", "x"]])
def test_the_command_takes_them_for_folders_alone(options, capsys):
    assert main(["export", "runs/first", "-o", "x", "--masks", "full", *options]) == 2
    err = capsys.readouterr().err
    assert "--masks full: is for --format" in err or "is not installed" in err


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_an_exported_file_passes_its_gate(model, format, tmp_path):
    if format == "onnx" and find_spec("onnxruntime") is None:
        pytest.skip("needs the extra onnx")
    file, gate = export_folder(model, tmp_path / "exported", ExportOptions(format=format, masks="full"))
    assert gate.passed, gate.line()
    assert gate.full.masks > 20
    assert f"full masks: {gate.full.masks}, pixels that differ: 0" in gate.line()
    assert "against the masks of the boxes, pasted: 0 pixels" in (file.parent / "card.md").read_text()
    assert load_exported(file, trust_code=True).full


@pytest.mark.slow
def test_a_file_with_wrong_full_masks_is_rejected(model, tmp_path, monkeypatch):
    right = folder_module.check_full

    def shifted(exported, images):
        run = exported.session.run
        exported.session.run = lambda *given: [*(found := run(*given))[:-1], np.roll(found[-1], 1, axis=2)]
        return right(exported, images)

    monkeypatch.setattr(folder_module, "check_full", shifted)
    file, gate = export_folder(model, tmp_path / "exported", ExportOptions(format="torch", masks="full"))
    assert not gate.passed
    with pytest.raises(ValueError, match="differ from those of the checkpoint"):
        load_exported(file, trust_code=True)

"""Exports of keypoint, point, semantic and panoptic heads: the gate judges what they add, and notices what is wrong."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch

from detection import fast, predict
from detection.categories import Categories, Skeleton
from detection.export import map_check, standalone
from detection.export.align import align_regions
from detection.export.check_data import CheckData
from detection.export.extras import FOLDERS
from detection.export.folder import about, export_folder, judge
from detection.export.forms.points import sample_grid
from detection.export.images import synthetic_images
from detection.export.loading import FIXED, of_session
from detection.export.map_check import Seen, equal_share
from detection.export.options import EQUAL, ExportOptions
from detection.export.outputs import output_names
from detection.export.program import check_exportable, exportable
from detection.inference.api import load_model
from detection.inference.info import kind_of
from detection.ops.keypoints import decode_keypoints
from detection.ops.panoptic import Segment
from detection.ops.points import sample_maps
from tests.support.exported_models import HEADS, Session, program_of, without_torch

IMAGES = ("one object", "batch of three, 1", "odd sizes", "one color")


def made(name):
    model = fast.convert(HEADS[name]()).eval()
    model.test_size = (96, 160)
    return model


def exported_of(model, of=None, change=lambda values: values):
    """An export that PyTorch computes; ``change`` takes and returns the values by their names."""

    class Changed(Session):
        def run(self, images, sizes):
            names = output_names(model)
            return list(change(dict(zip(names, super().run(images, sizes), strict=True))).values())

    session = Changed(exportable(of or model), model)
    session.metadata["export"] = about(model, ExportOptions())
    return of_session(session, "file")


QUICK = ("keypoint_rcnn", "semantic_fpn")


@pytest.fixture(
    scope="module", params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in HEADS]
)
def model(request):
    return made(request.param)


def gate_of(model, **changes):
    images = [one for one in synthetic_images(model) if one[0] in IMAGES]
    return judge(model, exported_of(model, **changes), images, "test")


def test_a_correct_export_passes(model):
    gate = gate_of(model)
    assert gate.passed, gate.line()
    values = output_names(model)
    assert ("keypoints within" in gate.line()) == ("keypoints" in values)
    assert ("semantic maps" in gate.line()) == ("semantic" in values)
    assert json.loads(json.dumps(gate.summary()))["passed"]


def changed(name, change):
    """Change one of the values, if the detector has it."""
    return lambda values: values | {name: change(values[name])} if name in values else values


WRONG = {
    "keypoints": changed("keypoints", lambda x: x + [0.02, 0, 0]),
    "scores of keypoints": changed("keypoints", lambda x: x + [0, 0, 2e-4]),
    "masks": changed("masks", lambda x: x * 0.999),
    "classes of pixels": changed("semantic", lambda x: x * 1.01),
    "one class": changed("semantic", lambda x: np.concatenate([x[:, :1] + 0.05, x[:, 1:]], axis=1)),
    "half a cell": changed("semantic", lambda x: np.roll(x, 1, axis=3)),
    "no number": changed("semantic", lambda x: x * np.nan),
}


@pytest.mark.parametrize(
    "wrong", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("no number", "one class"))) for name in WRONG]
)
def test_the_gate_notices_a_wrong_value(model, wrong):
    name = {"keypoints": "keypoints", "scores of keypoints": "keypoints", "masks": "masks"}.get(wrong, "semantic")
    if name not in output_names(model):
        pytest.skip("this detector does not have the value")
    gate = gate_of(model, change=WRONG[wrong])
    assert not gate.passed, gate.line()
    assert "FAILED" in gate.line()


@pytest.mark.slow
def test_the_gate_notices_broken_operators():
    model = made("keypoint_rcnn")

    def half_a_cell(heatmaps, boxes):
        return decode_keypoints(heatmaps, boxes) + torch.tensor([0.5, 0, 0])

    with patch("detection.models.keypoint_head.decode_keypoints", half_a_cell):
        theirs = exported_of(model)
        gate = judge(model, theirs, synthetic_images(model)[:1], "test")
    assert gate.passed  # broken on both sides
    images = [one for one in synthetic_images(model) if one[0] in IMAGES]

    def shifted(features, strides, boxes, size, ratio, aligned):
        return align_regions(features, strides, boxes, size, ratio, not aligned)

    with patch("detection.export.forms.regions.align_regions", shifted):
        assert not judge(model, exported_of(model), images, "test").passed
    model = made("pointrend")
    with patch("detection.export.forms.points.sample_grid", lambda maps, points: sample_grid(maps, points + 0.5)):
        assert not judge(model, exported_of(model), images, "test").passed


def test_a_loaded_export_gives_the_same_prediction(model, pixels):
    theirs = exported_of(model)
    assert kind_of(theirs) == kind_of(model)
    ours, other = predict(model, pixels, 0.0), predict(theirs, pixels, 0.0)
    assert len(ours) == len(other)
    assert len(ours) or ours.maps is not None
    np.testing.assert_allclose(ours.boxes, other.boxes, atol=1e-3)
    if ours.keypoints is not None:
        np.testing.assert_allclose(ours.keypoints, other.keypoints, atol=1e-3)
    if ours.maps is not None:
        assert ours.maps.categories == other.maps.categories
        assert (ours.maps.semantic == other.maps.semantic).mean() >= EQUAL
        assert [one[1:3] for one in ours.maps.segments] == [one[1:3] for one in other.maps.segments]
        assert predict(theirs, pixels, tile=48).maps.semantic.shape == pixels.shape[:2]
    with pytest.raises(ValueError, match=FIXED):
        theirs.last_head.config = replace(theirs.last_head.config, **{"loss_weight": 3.0} if hasattr(
            theirs.last_head.config, "loss_weight") else {"score_threshold": 0.9})  # fmt: skip


def test_a_file_with_other_values_is_rejected():
    model = made("semantic_fpn")
    theirs = exported_of(model, change=lambda values: values | {"more": values["semantic"]})
    with pytest.raises(ValueError, match="does not return semantic alone; export it again"):
        theirs(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]]))


def test_what_does_not_go_together_gets_one_line():
    with pytest.raises(ValueError, match="--nms outside: keypoints need the boxes after the NMS"):
        check_exportable(made("keypoint_rcnn"), "outside")
    with pytest.raises(ValueError, match="--nms outside: masks need the boxes after the NMS"):
        check_exportable(made("pointrend"), "outside")
    with pytest.raises(ValueError, match="--masks full: the detector predicts only boxes"):
        check_exportable(made("semantic_fpn"), masks="full")
    with pytest.raises(ValueError, match="finds no objects, so it has no AP"):
        CheckData("data", made("semantic_fpn"))


def test_samples_of_the_regions_of_each_map_are_those_of_the_plain_code():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5, 9, 13, generator=generator)
    points = torch.rand(2, 3, 40, 2, generator=generator) * torch.tensor([15.0, 11]) - 1  # some lie outside
    expected = sample_maps(maps, points.flatten(0, 1), torch.arange(2).repeat_interleave(3))
    torch.testing.assert_close(sample_grid(maps, points).flatten(0, 1), expected, rtol=1e-5, atol=1e-5)


def segments_seen(ids, *segments):
    return Seen(torch.zeros(1, 1, 1), np.zeros_like(ids), ids, [Segment(*one) for one in segments])


def test_the_share_of_equal_segments_does_not_depend_on_their_numbers():
    ids = np.repeat([[0, 1, 1, 2, 2, 2, 3, 3, 3, 3]], 10, axis=0)
    own = segments_seen(ids, (1, 0, True), (2, 0, True), (3, 1, False))
    other = segments_seen(np.array([0, 2, 1, 3])[ids], (2, 0, True), (1, 0, True), (3, 1, False))
    assert equal_share(own, other) == 1.0
    merged = segments_seen(np.array([0, 1, 1, 3])[ids], (1, 0, True), (3, 1, False))  # two objects became one
    assert equal_share(own, merged) == 0.8
    assert equal_share(merged, own) == 0.8
    renamed = segments_seen(ids, (1, 0, True), (2, 1, True), (3, 1, False))
    assert equal_share(own, renamed) == 0.7
    lost = segments_seen(np.array([0, 1, 2, 0])[ids], (1, 0, True), (2, 0, True))
    assert equal_share(own, lost) == 0.6


def test_an_object_that_a_map_lost_does_not_pass(monkeypatch):
    model = made("panoptic_fpn")
    images = [one for one in synthetic_images(model) if one[0] == "one object"]
    real = map_check.segments_of
    calls = []

    def fewer(found, *rest):
        calls.append(1)
        ids, segments = real(found, *rest)
        if len(calls) == 2:  # those of the export
            ids = np.where(ids == segments[0].id, 0, ids)
        return ids, segments

    assert real is not fewer
    assert map_check.check_maps(model, exported_of(model), images).passed
    monkeypatch.setattr(map_check, "segments_of", fewer)
    found = map_check.check_maps(model, exported_of(model), images)
    assert not found.passed
    assert found.differences[0].semantic == 1.0
    assert found.differences[0].panoptic < 1.0


@pytest.fixture
def programs(model, tmp_path, monkeypatch):
    """The programs of the folder, whose model PyTorch computes: objects, and maps if there is a semantic head."""
    session = Session(model)
    session.metadata["export"] = about(model, ExportOptions())
    objects = program_of(session, tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "predict", standalone)
    maps = (
        importlib.import_module("detection.export.standalone_maps").MapModel
        if "semantic" in output_names(model)
        else None
    )
    return objects, maps and maps(tmp_path)


@pytest.mark.parametrize("side", [(90, 70), (300, 200)])
def test_the_programs_of_the_folder_find_the_same(model, programs, side):
    image = np.random.default_rng(0).integers(0, 255, (*side, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 6)
    objects, maps = programs
    reference = predict(model, image, 0.0)
    if "boxes" in output_names(model):
        found = objects.predict(image, 0.0)
        assert len(found) == len(reference) > 0
        np.testing.assert_allclose([one["box"] for one in found], reference.boxes, atol=0.02)
    if reference.keypoints is not None:
        np.testing.assert_allclose([one["keypoints"] for one in found], reference.keypoints, atol=0.02)
    if reference.rles is not None:
        for one, mask in zip(found, reference.masks, strict=True):
            counts = one["mask"]["counts"]
            pixels = np.repeat(np.arange(len(counts)) % 2, counts).reshape(mask.shape[::-1]).T
            assert (pixels != mask).mean() <= 1e-3
    if maps is None:
        return
    semantic, ids, segments = maps.maps(image)
    assert len(np.unique(semantic)) > 1
    assert (semantic == reference.maps.semantic).mean() >= EQUAL
    shares, expected = maps.shares(semantic), reference.maps.shares()
    assert shares == pytest.approx(expected, abs=2e-3)
    assert (ids is None) == (reference.maps.ids is None)
    if ids is not None:
        assert (ids == reference.maps.ids).mean() >= EQUAL
        expected = reference.maps.segments_info()
        assert [(one["name"], one["isthing"]) for one in segments] == [(o["name"], o["isthing"]) for o in expected]
        assert sum(one["area"] for one in segments) == pytest.approx(sum(one["area"] for one in expected), rel=2e-3)


def test_the_program_moves_and_counts_keypoints_as_the_toolkit(tmp_path, monkeypatch):
    model = HEADS["keypoint_rcnn"](pixel_corners=True).eval()
    model.test_size = (96, 160)
    names = (("nose", "tail"), ("a", "b", "c", "d", "e"), ())
    model.categories = Categories(("cat", "dog", "bird"), (1, 2, 3), tuple(Skeleton(one) for one in names))
    session = Session(model)
    session.metadata["export"] = about(model, ExportOptions())
    image = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
    found = program_of(session, tmp_path, monkeypatch).predict(image, 0.0)
    reference = predict(model, image, 0.0)
    assert len({one["label"] for one in found}) > 1
    for k, one in enumerate(found):
        np.testing.assert_allclose(np.reshape(one["keypoints"], (-1, 3)), reference.keypoints_of(k), atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("format", FOLDERS)
def test_a_file_of_each_engine_passes_and_gives_the_same_prediction(model, format, tmp_path, pixels):
    if any(find_spec(name) is None for name in FOLDERS[format]):
        pytest.skip("needs the extras onnx and openvino")
    file, gate = export_folder(model, tmp_path / "exported", ExportOptions(format=format))
    assert gate.passed, gate.line()
    assert "Parity gate: passed" in (file.parent / "card.md").read_text()
    ours, theirs = predict(model, pixels, 0.0), predict(load_model(file, trust_code=True), pixels, 0.0)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.01)
    assert ours.keypoints is None or np.abs(ours.keypoints - theirs.keypoints).max() < 0.01
    assert ours.maps is None or (ours.maps.semantic == theirs.maps.semantic).mean() >= EQUAL


@pytest.mark.slow
@pytest.mark.parametrize("name", ["keypoint_rcnn", "panoptic_fpn"])
def test_the_programs_need_no_pytorch(name, tmp_path):
    if any(find_spec(package) is None for package in FOLDERS["onnx"]):
        pytest.skip("needs the extra onnx")
    model = made(name)
    file, _ = export_folder(model, tmp_path / "exported")
    python, image = without_torch(tmp_path / "env"), np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image[..., ::-1])
    reference = predict(model, image, 0.3)

    def printed(program, *options):
        command = [python, file.parent / program, tmp_path / "image.png", *options]
        return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    found = printed("predict.py", "--score", "0.3", "--save", tmp_path / "found.jpg")["detections"]
    assert len(found) == len(reference) > 0
    np.testing.assert_allclose([one["box"] for one in found], reference.boxes, atol=0.02)
    assert (tmp_path / "found.jpg").is_file()
    if name == "panoptic_fpn":
        maps = printed("maps.py", "--labels", tmp_path / "labels.png", "--segments", tmp_path / "segments.png")
        assert len(maps["segments"]) == len(reference.maps.segments)
        labels, ids = (cv2.imread(str(tmp_path / f"{name}.png"), -1) for name in ("labels", "segments"))
        assert (labels == reference.maps.semantic).mean() >= EQUAL
        assert (ids == reference.maps.ids).mean() >= EQUAL
    else:
        np.testing.assert_allclose([one["keypoints"] for one in found], reference.keypoints, atol=0.02)

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from backbones import BackboneConfig
from detection import load_model, predict, save_model
from detection.categories import Categories
from detection.inference import predict_batch
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    detector = build_detector(
        2,
        BackboneConfig("resnet10"),
        FPNConfig(channels=16),
        None,
        BoxHeadConfig(hidden=16, score_threshold=0.0, detections=5),
        MaskHeadConfig(convs=1, channels=8),
    )
    detector.categories, detector.test_size = Categories(("cat", "dog"), (3, 9)), (64, 96)
    return detector


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 255, (50, 80, 3), np.uint8)


def test_a_file_an_array_and_a_tensor_give_the_same(model, pixels, tmp_path):
    cv2.imwrite(str(tmp_path / "image.png"), pixels[..., ::-1])
    of_file, of_array, of_tensor = (
        predict(model, image, score_threshold=0.0)
        for image in (tmp_path / "image.png", pixels, torch.from_numpy(pixels).permute(2, 0, 1))
    )
    assert len(of_file) == 5
    assert np.array_equal(of_file.boxes, of_array.boxes)
    assert np.array_equal(of_file.masks, of_tensor.masks)


def test_results_are_in_pixels_of_the_image_given(model, pixels):
    found = predict(model, pixels, score_threshold=0.0)
    assert found.masks.shape == (5, 50, 80)
    assert found.masks.dtype == bool
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 2] <= 80.001).all()
    assert (found.boxes[:, 3] <= 50.001).all()
    assert (np.diff(found.scores) <= 0).all()
    assert found.name(0) in ("cat", "dog")


def test_what_scores_less_is_left_out_and_the_mode_is_kept(model, pixels):
    model.train()
    assert len(predict(model, pixels, score_threshold=1.1)) == 0
    assert model.training
    assert predict(model, pixels, score_threshold=1.1).masks.shape == (0, 50, 80)


def test_a_list_of_images_gives_a_list(model, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    both = predict(model, [tmp_path / "a.png", pixels[:20]], score_threshold=0.0)
    for one, image in zip(both, (pixels, pixels[:20]), strict=True):
        assert np.array_equal(one.boxes, predict(model, image, score_threshold=0.0).boxes)
    assert predict(model, []) == []


@pytest.mark.parametrize("read", [predict, lambda model, url: predict_batch(model, [url])])
def test_a_url_is_no_image(model, read):
    with pytest.raises(ValueError, match=r"image: https://x\.org/a\.jpg is a URL; download the file"):
        read(model, "https://x.org/a.jpg")


def test_swapped_arguments_are_told(model):
    with pytest.raises(
        ValueError, match="model is a str, not a detector; pass the result of load_model first, then the image"
    ):
        predict("a.jpg", model)
    with pytest.raises(ValueError, match=r"give the model first, then the path: save_model\(model, 'a\.ckpt'\)"):
        save_model("a.ckpt", model)


def test_a_runs_folder_is_its_best_checkpoint_else_its_last(model, tmp_path, capsys):
    folder = tmp_path / "version_0"
    with pytest.raises(ValueError, match=r"version_0.* does not exist"):
        load_model(folder)
    (folder / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"version_0 has no checkpoints/best\.ckpt and no checkpoints/last\.ckpt"):
        load_model(folder)
    for name in ("last", "best"):
        save_model(model, folder / "checkpoints" / f"{name}.ckpt")
        load_model(folder)
        assert f"version_0: using checkpoints/{name}.ckpt" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"has 1 run.*give one of them, such as .*version_0"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("maskrcnn_resnet50_fpn_v2", "torchvision:maskrcnn_resnet50_fpn_v2"),
        ("fasterrcnn_resnet50_fpn", "torchvision:fasterrcnn_resnet50_fpn"),
        ("maskrcnn_resnet50_fpn_v1", "torchvision:maskrcnn_resnet50_fpn"),
        ("mask_rcnn_R_50_FPN_3x", "detectron2:mask_rcnn_R_50_FPN_3x"),
    ],
)
def test_a_zoos_name_alone_is_told_its_zoo(name, meant):
    with pytest.raises(ValueError, match=f"file {name} does not exist; did you mean {meant}"):
        load_model(name)


def test_a_url_is_no_model():
    with pytest.raises(ValueError, match=r"weights: https://x\.org/a\.ckpt is a URL; download the file"):
        load_model("https://x.org/a.ckpt")


@pytest.mark.parametrize(
    "how",
    [
        {"size": (0, 0)},
        {"size": (-1, 5)},
        {"size": 800},
        {"size": (96,)},
        {"size": (64.0, 96.0)},
        {"short_sides": 64},
        {"short_sides": [64, 0]},
        {"short_sides": ["64"]},
        {"tile": 64.5},
    ],
)
def test_sides_that_are_none_are_refused_by_name(model, pixels, how):
    with pytest.raises(ValueError, match=next(iter(how))):
        predict(model, pixels, **how)
    if "size" in how:
        with pytest.raises(ValueError, match="size"):
            predict_batch(model, [pixels], **how)


@pytest.mark.parametrize(
    "how",
    [{"tile": 32, "flip": True}, {"tile": 32, "short_sides": [48]}, {"size": (48, 96), "short_sides": np.array([48])}],
)
def test_ways_to_look_that_do_not_go_together_are_refused(model, pixels, how):
    one, other = how
    with pytest.raises(ValueError, match=f"({one}|{other}) and ({one}|{other}) cannot be combined"):
        predict(model, pixels, **how)


@pytest.mark.parametrize("how", [{"tile": 48}, {"flip": True}])
def test_a_size_is_that_of_every_way_to_look(model, pixels, monkeypatch, how):
    asked = predict(model, pixels, 0.0, size=(32, 48), **how)
    own = predict(model, pixels, 0.0, **how)
    monkeypatch.setattr(model, "test_size", (32, 48))
    assert np.array_equal(asked.boxes, predict(model, pixels, 0.0, **how).boxes)
    assert not np.array_equal(asked.boxes, own.boxes)


def test_one_image_is_no_batch(model, pixels):
    for one in ("street.jpg", pixels, torch.from_numpy(pixels).permute(2, 0, 1), Image.fromarray(pixels)):
        with pytest.raises(ValueError, match="expected a list of images, got one"):
            predict_batch(model, one)
    assert len(predict_batch(model, np.stack([pixels, pixels]), 0.0)) == 2


def test_some_by_places_or_by_a_condition(model, pixels):
    found = predict(model, pixels, 0.0)
    for keep in (np.array([3, 1]), [3, 1]):
        some = found.only(keep)
        assert some.scores.tolist() == found.scores[[3, 1]].tolist()
        assert np.array_equal(some.masks, found.masks[[3, 1]])
    assert len(found.only([])) == 0
    assert found.only(found.scores > 2).rles == []


def test_a_batch_gives_what_one_after_the_other_gives(model, pixels):
    other = np.ascontiguousarray(pixels[::-1])
    for one, alone in zip(
        predict_batch(model, [pixels, other], 0.0), (predict(model, p, 0.0) for p in (pixels, other)), strict=True
    ):
        assert np.allclose(one.boxes, alone.boxes, atol=1e-3)
        assert np.allclose(one.scores, alone.scores, atol=1e-5)
    assert predict_batch(model, []) == []


def test_other_tools_read_it(model, pixels):
    found = predict(model, pixels, 0.0)
    arguments = found.supervision()
    assert arguments["xyxy"].shape == (5, 4)
    assert arguments["mask"].shape == (5, 50, 80)
    assert list(arguments["data"]["class_name"]) == [found.name(i) for i in range(5)]
    for i, one in enumerate(found.fiftyone()):
        x, y, w, h = one["bounding_box"]
        assert np.allclose([x * 80, y * 50, (x + w) * 80, (y + h) * 50], found.boxes[i], atol=1e-4)
        assert one["mask"].sum() == found.masks[i].sum() or found.masks[i].sum() > one["mask"].sum() > 0
    assert len(found.only(found.labels == 0)) == (found.labels == 0).sum()

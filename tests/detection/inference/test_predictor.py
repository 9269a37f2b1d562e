import copy

import cv2
import numpy as np
import pytest
import torch

from detection import Predictor, fast, load_model, predict


@pytest.fixture
def predictor(tiny_model):
    return Predictor(fast.convert(copy.deepcopy(tiny_model)))  # as a loaded one


def same(one, other):
    assert np.array_equal(one.boxes, other.boxes)
    assert np.array_equal(one.scores, other.scores)
    assert one.rles == other.rles


def test_one_image_gives_what_the_function_gives(predictor, pixels):
    for options in ({}, {"flip": True}, {"tile": 48}, {"size": (32, 48)}):
        same(
            predictor.predict(pixels, score_threshold=0.0, **options), predict(predictor.model, pixels, 0.0, **options)
        )
    same(predictor(pixels, 0.0), predict(predictor.model, pixels, 0.0))


@pytest.mark.parametrize("options", [{}, pytest.param({"flip": True}, marks=pytest.mark.slow), {"size": (32, 48)}])
def test_a_list_gives_a_list_in_its_order(predictor, pixels, tmp_path, options):
    cv2.imwrite(str(tmp_path / "a.png"), pixels[::-1, :, ::-1])
    images = [pixels, tmp_path / "a.png", pixels[:20], str(tmp_path / "a.png"), pixels]
    found = predictor.predict(images, score_threshold=0.0, batch_size=2, **options)
    assert [one.size for one in found] == [(50, 80), (50, 80), (20, 80), (50, 80), (50, 80)]
    for one, image in zip(found, images, strict=True):
        alone = predict(predictor.model, image, 0.0, **options)
        assert np.allclose(one.boxes, alone.boxes, atol=1e-3)
    assert found[1].image == found[3].image == tmp_path / "a.png"
    assert predictor.predict([]) == []


def test_a_stream_reads_images_when_their_turn_comes(predictor, pixels):
    asked = []

    def images():
        for k in range(5):
            asked.append(k)
            yield pixels

    stream = predictor.stream(images(), 0.0, batch_size=2)
    assert not asked
    assert len(next(stream)) == 5
    assert asked == [0, 1]
    assert len(list(stream)) == 4
    with pytest.raises(ValueError, match="batch_size is 0: must be at least 1"):
        next(predictor.stream([pixels], batch_size=0))


def test_what_is_saved_is_loaded_again(predictor, pixels, tmp_path):
    path = predictor.save(tmp_path / "mine.ckpt")
    for again in (Predictor(path), Predictor(str(path), device="cpu")):
        same(again.predict(pixels, 0.0), predictor.predict(pixels, 0.0))
        assert again.classes == ["cat", "dog"]
    assert load_model(path, device="auto").pixel_mean.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert Predictor(path).device == torch.device("cpu")


@pytest.mark.parametrize("load", [load_model, Predictor])
def test_a_device_that_is_not_there_is_told_in_a_line(load, tmp_path):
    with pytest.raises(ValueError, match=r"^device nonsense: .*; use cpu, or leave it out$") as error:
        load(tmp_path / "no.ckpt", device="nonsense")
    assert len(str(error.value).splitlines()) == 1


def test_its_text_names_the_kind(predictor):
    assert repr(predictor) == "Predictor(Mask R-CNN, classes: 2, device: cpu)"


def test_a_detector_has_the_methods_itself(predictor, pixels, tmp_path):
    model = predictor.model
    same(model.predict(pixels, score_threshold=0.0, flip=True), predict(model, pixels, 0.0, flip=True))
    assert [len(one) for one in model.predict([pixels, pixels])] == [
        len(one) for one in predictor.predict([pixels] * 2)
    ]
    same(next(model.stream([pixels], score_threshold=0.0)), predict(model, pixels, 0.0))
    assert model.info() == predictor.info()
    again = load_model(model.save(tmp_path / "mine.ckpt"))
    same(again.predict(pixels, score_threshold=0.0), predict(model, pixels, 0.0))

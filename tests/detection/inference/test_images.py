import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detection.inference.images import pixels_of


def test_files_arrays_and_tensors_become_the_same_array(tiny_model, pixels, tmp_path):
    cv2.imwrite(str(tmp_path / "image.png"), pixels[..., ::-1])
    for image in (
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        pixels,
        torch.from_numpy(pixels).permute(2, 0, 1),
    ):
        assert np.array_equal(pixels_of(image, tiny_model), pixels)
    assert np.array_equal(pixels_of(pixels.astype(np.uint16) * 257, tiny_model), pixels)
    assert pixels_of(Image.fromarray(pixels), tiny_model).shape == pixels.shape


def test_a_url_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"image: https://x\.org/a\.jpg is a URL; download the file"):
        pixels_of("https://x.org/a.jpg", tiny_model)


@pytest.mark.parametrize("shape", [(50, 80), (50, 80, 4), (3, 50, 80)])
def test_other_arrays_are_refused(tiny_model, shape):
    with pytest.raises(ValueError, match="expected uint8 or uint16 RGB"):
        pixels_of(np.zeros(shape, np.uint8), tiny_model)
    with pytest.raises(ValueError, match="expected uint8 or uint16 RGB"):
        pixels_of(np.zeros((50, 80, 3), np.float32), tiny_model)


def test_what_is_no_array_is_refused_by_what_numpy_makes_of_it(tiny_model, pixels):
    with pytest.raises(ValueError, match=r"got \(50, 80\) uint8"):
        pixels_of(Image.fromarray(pixels).convert("L"), tiny_model)
    with pytest.raises(ValueError, match=r"got \(3,\) int64"):
        pixels_of([1, 2, 3], tiny_model)
    with pytest.raises(ValueError, match=r"got \(4, 50, 80\) uint8"):  # as it was given
        pixels_of(torch.zeros(4, 50, 80, dtype=torch.uint8), tiny_model)


def test_tensors_of_a_graph_and_nested_lists_are_refused_as_any_other(tiny_model, pixels):
    with pytest.raises(ValueError, match=r"expected uint8 .* got \(\) object \(list\)"):
        pixels_of([[pixels, pixels[:20]], [1]], tiny_model)
    with pytest.raises(ValueError, match=r"got \(3, 50, 80\) float32 \(Tensor\)"):
        pixels_of(torch.zeros(3, 50, 80, requires_grad=True), tiny_model)


@pytest.mark.parametrize(
    ("image", "remedy"),
    [
        (np.full((50, 80, 3), 0.5, np.float32), r"give \(image \* 255\)\.round\(\)\.astype\(np\.uint8\)"),
        (np.full((50, 80, 3), 200.0), r"give \(image\)\.round\(\)\.astype\(np\.uint8\)"),
        (torch.full((3, 50, 80), 0.5), r"give \(image \* 255\)\.round\(\)\.byte\(\)"),
        (np.full((50, 80, 3), -1.0), "the image before normalisation"),
        (np.zeros((3, 50, 80), np.uint8), r"give image\.transpose\(1, 2, 0\)"),
        (torch.zeros(50, 80, 3, dtype=torch.uint8), r"give image\.permute\(2, 0, 1\)"),
        (np.zeros((50, 80), np.uint8), "repeat the channel 3 times"),
        (np.zeros((1, 50, 80, 3), np.uint8), r"give image\[0\]"),
        (np.zeros((50, 80, 3), np.int64), r"give image\.astype\(np\.uint8\) if"),
    ],
)
def test_an_array_of_another_kind_is_told_how_to_become_an_image(tiny_model, image, remedy):
    with pytest.raises(ValueError, match=remedy) as error:
        pixels_of(image, tiny_model)
    assert len(str(error.value).splitlines()) == 1

"""Checkpoints of older versions load, and their detectors return the same detections."""

import json
from pathlib import Path

import pytest
import torch

from detection import load_model

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("name", ["written_by_994e572"])
def test_a_detector_of_an_older_version_finds_what_it_found(name):
    expected = json.loads((DATA / f"{name}.json").read_text())
    model = load_model(DATA / f"{name}.ckpt")
    assert model.categories.names == ("cat", "dog")
    images = torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        found = model(images, torch.tensor([[60, 90]]))
    assert found.labels[0].tolist() == expected["labels"]
    assert found.scores[0].tolist() == pytest.approx(expected["scores"], abs=1e-5)
    torch.testing.assert_close(found.boxes[0], torch.tensor(expected["boxes"]), rtol=0, atol=1e-3)
    assert found.masks[0].sum((1, 2)).tolist() == pytest.approx(expected["mask_sums"], rel=1e-4)

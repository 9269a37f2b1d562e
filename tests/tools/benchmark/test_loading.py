"""All ways of loading do the same work."""

import numpy as np
import pytest
import torch

from tools.benchmark import loading
from tools.benchmark.data import open_data
from tools.benchmark.loading import LATER, OURS, PEER, SIDES, WAYS, Loading


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_data(None, None, tmp_path_factory.mktemp("shapes"))


@pytest.mark.slow
def test_all_ways_load_the_same_images_and_objects(data, monkeypatch):
    monkeypatch.setattr(loading, "begin_worker", lambda number: None)
    ways = {way: Loading(*data, way, worker=False) for way in WAYS}
    numbers = ways[OURS].batches[0]
    ours, later, theirs = (ways[way].data.__getitems__(numbers) for way in (OURS, LATER, PEER))
    for one, raw, (image, masks) in zip(ours, later, theirs, strict=True):
        assert raw.wanted == one.image.shape[:2]
        height, width = one.image.shape[:2]
        assert min(height, width) in SIDES
        assert min(image.shape[1:]) in {side - down for side in SIDES for down in (0, 1)}  # rounded down
        box = (one.boxes[:, 2:] - one.boxes[:, :2]).prod(axis=1) / (height * width)
        part = one.masks.mean((1, 2)) * box
        assert np.allclose(part[~one.crowd], masks.float().mean((1, 2)), atol=0.005)
    assert sorted(number for batch in ways[PEER].batches for number in batch) == list(range(len(data[0])))
    for way in ways.values():
        way.load()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_through_a_worker(data, way):
    Loading(*data, way, worker=True).load()

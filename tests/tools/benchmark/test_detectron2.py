"""The benchmark of detectron2, if it is installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tools.benchmark.command import main
from tools.benchmark.data import batches, open_data


@pytest.mark.skipif(find_spec("detectron2") is not None, reason="detectron2 is installed")
def test_it_is_asked_for_and_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--peer", "detectron2"])
    assert "--peer detectron2: not installed" in capsys.readouterr().err


def test_it_trains_and_finds_as_much_as_the_others(tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    from tools.benchmark.detectron2 import detectron2

    batch = batches(*open_data(None, None, tmp_path), 96, 2, 1)[0]
    peer = detectron2("resnet50", torch.device("cpu"), "fp32", batch)
    before = peer.model.roi_heads.mask_head.predictor.weight.clone()
    assert peer.numbers(batch) == [100, 100]
    peer.train(batch)
    assert not torch.equal(peer.model.roi_heads.mask_head.predictor.weight, before)
    with pytest.raises(ValueError, match="its zoo has resnet50 and resnet101, not resnet18"):
        detectron2("resnet18", torch.device("cpu"), "fp32", batch)

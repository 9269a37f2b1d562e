"""Training from Python does what the command does."""

import pytest
import torch

import detection
from detection.commands.main import main
from detection.shapes import write_shapes

SETTINGS = {
    "model.fpn.channels": 16,
    "model.rpn.proposals_train": 20,
    "model.rpn.proposals_test": 20,
    "model.box_head.hidden": 16,
    "model.mask_head.channels": 16,
    "trainer.max_steps": 2,
    "trainer.val_check_interval": 2,
    "trainer.enable_progress_bar": False,
    "data.workers": 0,
    "run.pictures": 0,
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), train=4, val=2, size=(64, 96))


@pytest.mark.slow
def test_the_same_run_as_the_command(shapes, tmp_path):
    result = detection.train("demo", data=shapes, output=tmp_path / "python", batch_size=2, settings=SETTINGS)
    assert result.folder == tmp_path / "python"
    assert result.metrics["step"] == 2
    assert result.best.is_file()
    words = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value).lower())]
    line = ["train", "demo", "--data", str(shapes), "--output", str(tmp_path / "line"), "--batch", "2"]
    assert main([*line, *words]) == 0
    other = torch.load(tmp_path / "line/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    mine = torch.load(result.last, weights_only=True)["state_dict"]
    assert all(torch.equal(mine[name], value) for name, value in other.items())
    assert result.load().categories.names == ("circle", "square", "triangle", "ring", "star")


def test_what_is_wrong_is_raised_in_one_line(shapes, tmp_path):
    with pytest.raises(ValueError, match="did you mean"):
        detection.train("demmo", data=shapes, output=tmp_path / "run")
    with pytest.raises(ValueError, match="no such option"):
        detection.train("demo", data=shapes, output=tmp_path / "run", settings={"epohcs": 3})
    with pytest.raises(ValueError, match=r"no such|not|no "):
        detection.train("demo", data=tmp_path / "nothing", output=tmp_path / "run")

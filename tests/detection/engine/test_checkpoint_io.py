import pytest
import torch

from detection.engine.checkpoint_io import AtomicCheckpointIO
from detection.engine.errors import InputError, NonFiniteError


def test_what_is_saved_is_loaded(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "new" / "a.ckpt"
    io.save_checkpoint({"state_dict": {"w": torch.ones(3), "n": torch.tensor(2)}, "epoch": 4}, path)
    loaded = io.load_checkpoint(path)
    assert loaded["epoch"] == 4
    assert torch.equal(loaded["state_dict"]["w"], torch.ones(3))
    io.remove_checkpoint(path)
    assert not path.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers_never_replace_good_ones(tmp_path, value):
    io, path = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    io.save_checkpoint({"state_dict": {"w": torch.ones(3)}}, path)
    with pytest.raises(NonFiniteError, match=r"a.ckpt is not written: v is not finite"):
        io.save_checkpoint({"state_dict": {"w": torch.zeros(3), "v": torch.tensor([0.0, value])}}, path)
    assert torch.equal(io.load_checkpoint(path)["state_dict"]["w"], torch.ones(3))


def test_large_finite_half_weights_are_numbers(tmp_path):
    weights = {"w": torch.full((1000,), 60000.0, dtype=torch.float16)}  # their float16 sum is infinite
    AtomicCheckpointIO().save_checkpoint({"state_dict": weights}, tmp_path / "a.ckpt")


def test_a_url_is_no_checkpoint():
    with pytest.raises(InputError, match="a URL; download the file"):
        AtomicCheckpointIO().load_checkpoint("http://example.com/a.ckpt")

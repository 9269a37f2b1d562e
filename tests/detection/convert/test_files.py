import os
import pickle
import zlib
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detection.convert.files import read


class Attack:
    """What unpickling calls is chosen by the file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_a_pickle_with_code_in_it_is_rejected_and_not_run(tmp_path, suffix):
    path, marker = tmp_path / f"weights.{suffix}", tmp_path / "executed"
    content = {"model": {"w": np.zeros(1)}, "extra": Attack(marker)}
    if suffix == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match="reading that could run code") as error:
        read(path)
    assert "\n" not in str(error.value)
    assert not marker.exists()


def test_the_codec_of_a_pickle_is_not_free(tmp_path):
    import codecs

    class Bomb:
        def __reduce__(self):
            return codecs.encode, (zlib.compress(b"0"), "zlib")

    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps({"model": Bomb()}))
    with pytest.raises(ValueError, match="could run code"):
        read(tmp_path / "bomb.pkl")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_every_protocol_are_read(tmp_path, protocol):
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3)}
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": OrderedDict(arrays), "__author__": "x", "lr": np.float64(1)}, protocol))
    state, rest = read(path)
    assert torch.equal(state["w"], torch.arange(6.0).view(2, 3))
    assert state["n"].item() == 3
    assert rest["__author__"] == "x"


def test_arrays_named_as_numpy_1_names_them_are_read(tmp_path):
    text = pickle.dumps({"model": {"w": np.zeros(2)}}, 2).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "old.pkl").write_bytes(text)
    assert read(tmp_path / "old.pkl")[0]["w"].shape == (2,)


@pytest.mark.parametrize("suffix", ["pkl", "pth", "safetensors"])
def test_a_file_that_is_cut_off_is_reported(tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pkl":
        path.write_bytes(pickle.dumps({"model": {"w": np.zeros(1000)}}))
    elif suffix == "pth":
        torch.save({"model": {"w": torch.zeros(1000)}}, path)
    else:
        save_file({"w": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="incomplete") as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"model": {"w": "text"}}])
def test_what_holds_no_weights_is_reported(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth holds"):
        read(tmp_path / "other.pth")


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(ValueError, match=r"none\.pth does not exist"):
        read(tmp_path / "none.pth")

"""The choice of the model file in a run's folder."""

import os

import pytest

from detection.convert.run_folder import model_of


def put(folder, *names):
    """Write empty files, each a second newer than the one before."""
    (folder / "checkpoints").mkdir()
    for age, name in enumerate(names):
        (folder / name).touch()
        os.utime(folder / name, (1000 + age, 1000 + age))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("checkpoints/best.ckpt", "checkpoints/last.ckpt", "model.safetensors"), "model.safetensors"),
        (("checkpoints/best.ckpt", "model.safetensors", "checkpoints/last.ckpt"), "model.safetensors"),
        (("model.safetensors", "checkpoints/best.ckpt", "checkpoints/last.ckpt"), "checkpoints/best.ckpt"),
        (("checkpoints/last.ckpt", "model.safetensors"), "model.safetensors"),
        (("model.safetensors", "checkpoints/last.ckpt"), "checkpoints/last.ckpt"),
        (("checkpoints/last.ckpt",), "checkpoints/last.ckpt"),
        (("model.safetensors",), "model.safetensors"),
    ],
)
def test_a_run_continued_after_its_weights_were_written_is_used_from_its_checkpoint(tmp_path, names, expected, capsys):
    put(tmp_path, *names)
    assert model_of(tmp_path) == tmp_path / expected
    assert expected in capsys.readouterr().err

"""Dropped lines, and lines that must not be dropped."""

import logging
import warnings
from functools import cache
from pathlib import Path

import jsonargparse
import lightning
import pytest
import torch
import torch.utils.data.dataloader

from detection.engine.lightning_mends import noise
from detection.engine.lightning_mends.noise import is_worth_reading, silence


def said(text: str) -> bool:
    return is_worth_reading(logging.LogRecord("lightning", logging.INFO, "", 0, text, None, None))


@pytest.mark.parametrize(
    "text",
    [
        "GPU available: False, used: False",
        "TPU available: False, using: 0 TPU cores",
        "Seed set to 0",
        "💡 Tip: For seamless cloud logging",
        "LOCAL_RANK: 0 - CUDA_VISIBLE_DEVICES: [0]",
        "`Trainer.fit` stopped: `max_steps=700` reached.",
        "Initializing distributed: GLOBAL_RANK: 0, MEMBER: 1/2",
    ],
)
def test_noise_is_dropped(text):
    assert not said(text)


@pytest.mark.parametrize(
    "text", ["Stopped early: val/AP has not been better in 2 validations", "Time limit reached.", "Restored all states"]
)
def test_news_is_not(text):
    assert said(text)


def test_a_warning_is_one_plain_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    silence()
    assert warnings.formatwarning("no compiler", UserWarning, "native.py", 26, "code") == "warning: no compiler\n"


@cache
def sources() -> str:
    """Lightning's source, and the files of PyTorch and jsonargparse that warn."""
    root = Path(lightning.__file__).parent
    files = [*root.glob("pytorch/**/*.py"), *root.glob("fabric/**/*.py")]
    files += [
        Path(torch.utils.__file__).with_name("_pytree.py"),
        Path(torch.utils.data.dataloader.__file__),
        Path(jsonargparse.__file__).with_name("_typehints.py"),
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return "".join(text.replace('"\n', "").split('"')).replace("  ", "")


UNSEEN = ("Grad strides do not match", "overridden `transfer_batch_to_device`")
"""In PyTorch's compiled code, and with a name that is put in."""


@pytest.mark.parametrize("text", [*noise.WARNINGS, *noise.LINES])
def test_everything_that_is_silenced_is_still_said(text):
    """Else a newer version has other words, or says it no longer."""
    assert text in UNSEEN or text in sources()

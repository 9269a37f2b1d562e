"""Lines that are dropped, and lines that are not."""

import logging
import warnings

import pytest

from detection.engine.quiet import is_news, quieten


def said(text: str) -> bool:
    return is_news(logging.LogRecord("lightning", logging.INFO, "", 0, text, None, None))


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
    quieten()
    assert warnings.formatwarning("no compiler", UserWarning, "native.py", 26, "code") == "warning: no compiler\n"

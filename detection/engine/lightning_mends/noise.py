"""Lines and warnings of Lightning and PyTorch that no user can act on.

:mod:`detection.engine.opening` prints their useful content in one line.
"""

import logging
import re
import warnings
from typing import Any

LINES = (
    "Tip:",
    "Seed set to",
    "GPU available",
    "TPU available",
    "that has Tensor Cores",
    "LOCAL_RANK",
    "Initializing distributed",
    "All distributed processes registered",
    "Automatic Mixed Precision",
    "was configured so",
    "Restoring states from the checkpoint path",
    "Detected KeyboardInterrupt",
    "Received SIGTERM",
    "SLURM auto-requeueing enabled",
    "`Trainer.fit` stopped",
    "Child process with PID",
)
"""Substrings of the log lines to drop."""
WARNINGS = (
    "does not have many workers",  # the user's choice
    "suggested max number of worker",  # the default is four on every machine
    "in eval mode at the start of training",  # frozen stages
    "dataloader is not resumable",  # the toolkit's loader is
    "smaller than the logging interval",  # a small data set
    "callbacks used to create the checkpoint",  # evaluation needs none of them
    "does not round-trip",  # tuples in a transform's arguments, saved as lists
    "overridden `transfer_batch_to_device`",  # as intended
    "LeafSpec",  # between Lightning and PyTorch
    "The dirpath has changed",  # a run that resumes in a new folder
    "Grad strides do not match",  # 1x1 weights are channels-last and plain at once
    "sync_dist=True)` when logging",  # rank 0 has sent it to the others
    "exists and is not empty",  # the folder of a resumed run; its curves and checkpoints are kept
    "overrides the configure_model callback",  # which does nothing with averaged weights
)
"""Substrings of the warnings to drop: they warn about intended behaviour."""
LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "lightning.fabric.utilities.distributed",
    "lightning.fabric.strategies.launchers.subprocess_script",
    "lightning.pytorch.accelerators.cuda",
    "lightning.pytorch.trainer.connectors.signal_connector",
)


def silence() -> None:
    """Drop these lines and warnings, and print each other warning in one line; repeated calls are harmless."""
    for text in WARNINGS:
        warnings.filterwarnings("ignore", message=f"(?s).*{re.escape(text)}")
    warnings.formatwarning = _one_line
    for name in LOGGERS:
        logging.getLogger(name).addFilter(is_worth_reading)


def _one_line(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    return f"warning: {message}\n"


def is_worth_reading(record: logging.LogRecord) -> bool:
    """Return whether a log line is worth printing."""
    message = record.getMessage()
    return not any(noise in message for noise in LINES)

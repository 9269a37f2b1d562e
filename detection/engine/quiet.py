"""What Lightning and PyTorch say that no user can act on; :mod:`.opening` says the rest in one line."""

import logging
import warnings
from typing import Any

NOISE = (
    "Tip:",
    "Seed set to",
    "GPU available",
    "TPU available",
    "IPU available",
    "HPU available",
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
LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "lightning.fabric.utilities.distributed",
    "lightning.fabric.strategies.launchers.subprocess_script",
    "lightning.pytorch.accelerators.cuda",
    "lightning.pytorch.trainer.connectors.signal_connector",
)


def quieten() -> None:
    """Drop these lines, however often it is called, and write a warning in one line."""
    warnings.formatwarning = _one_line
    for name in LOGGERS:
        logging.getLogger(name).addFilter(is_news)


def _one_line(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    return f"warning: {message}\n"


def is_news(record: logging.LogRecord) -> bool:
    """Whether a line says something about this run."""
    message = record.getMessage()
    return not any(noise in message for noise in NOISE)

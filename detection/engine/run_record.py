"""Write ``run.json``: command, software, devices, data and result of each start of a run."""

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detection.checkpoint_files import replacing
from detection.device import accelerator_name, processor_name
from detection.documents import read_json
from detection.engine.data_of import data_of
from detection.engine.errors import user_input
from detection.engine.trackers import ids
from detection.provenance import software

NAME = "run.json"
KILLED = "killed"
"""Result of a start whose process ended without writing a result."""


class RunRecord(Callback):
    """Write ``run.json``: the result of the last start, and an entry for each start of the run."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._began = 0.0

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        folder = trainer.log_dir  # all ranks must call it
        if not trainer.is_global_zero or folder is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._folder, self._began = Path(folder), time.monotonic()
        earlier = [{**start, "result": KILLED} if is_running(start) else start for start in starts(self._folder)]
        versions = software()
        del versions["date"]
        record = {
            "start": now(),
            "command": versions.pop("command"),
            "working_directory": os.getcwd(),
            "resumed_from": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "result": "running",
            "devices": devices(trainer, module),
            "trackers": ids(trainer.loggers),
            "data": dict(data_of(trainer).record()),
            "versions": versions,
        }
        self._write([*earlier, record])

    def finish(self, result: str, reason: str | None, best: Mapping[str, Any], last: Mapping[str, int]) -> None:
        """Add the result to the last entry.

        Args:
            result: ``finished``, ``interrupted`` or ``failed``.
            reason: why the run did not finish; None if it did.
            best: ``epoch``, ``step`` and ``AP`` of the best validation; empty without one.
            last: ``epoch`` and ``step`` of the end.
        """
        if self._folder is None:
            return
        *earlier, record = starts(self._folder)
        record |= {"end": now(), "seconds": round(time.monotonic() - self._began, 1), "result": result}
        record |= {"reason": reason, "best": dict(best) or None, "last": dict(last)}
        self._write([*earlier, record])

    def _write(self, entries: list[dict[str, Any]]) -> None:
        assert self._folder is not None
        last = entries[-1]
        # At the top of the file, for programs that need only the result of the last start.
        summary = {key: last.get(key) for key in ("result", "reason", "best", "last")}
        summary["seconds"] = round(sum(start.get("seconds") or 0 for start in entries), 1)
        with user_input():
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / NAME) as file:
                file.write(json.dumps({**summary, "starts": entries}, indent=1).encode())


def starts(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of ``run.json``; an empty list if the file is missing or unreadable."""
    try:
        found = read_json(folder / NAME)["starts"]
    except (ValueError, KeyError, TypeError):
        return []
    return [start for start in found if isinstance(start, dict)] if isinstance(found, list) else []


def is_running(start: Mapping[str, Any]) -> bool:
    """Return whether an entry has no result yet: its process is running, or was killed."""
    return start.get("result") == "running"


def devices(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return type, name and number of the devices, with precision and strategy, for ``run.json``."""
    kind = module.device.type
    return {
        "type": kind,
        "name": processor_name() if kind == "cpu" else accelerator_name(),
        "count": trainer.world_size,
        "nodes": trainer.num_nodes,
        "precision": str(trainer.precision),
        "strategy": type(trainer.strategy).__name__,
    }


def now() -> str:
    """Return the time in UTC, such as ``2026-11-30T09:24:51Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

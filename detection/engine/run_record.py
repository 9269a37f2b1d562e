"""``run.json``: how a run was started, with which software, on which devices and data."""

import json
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from detection.documents import read_json
from detection.engine.data_of import data_of
from detection.provenance import checksum, software


class RunRecord(Callback):
    """Writes ``run.json`` in the run's folder: for each start the command, versions, commit, devices and data."""

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        folder = trainer.log_dir  # asks all ranks
        if not trainer.is_global_zero or folder is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        record = {
            **software(),
            "devices": f"{trainer.world_size} x {module.device.type}, precision {trainer.precision}",
            "data": {
                split: {
                    "annotations": str(annotations.path),
                    "sha256": checksum(annotations.path),
                    "images": len(annotations),
                    "objects": annotations.num_objects - annotations.num_crowds,
                    "crowds": annotations.num_crowds,
                }
                for split, annotations in data_of(trainer).annotations.items()
            },
        }
        path = Path(folder) / "run.json"
        try:
            earlier = list(read_json(path)["starts"])
        except (ValueError, KeyError, TypeError):
            earlier = []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"starts": [*earlier, record]}, indent=1), encoding="utf-8")

"""The checkpoint that a folder of a run stands for."""

import sys
from pathlib import Path

from detection.wording import plural

CHECKPOINTS = ("best.ckpt", "last.ckpt")


def checkpoint_of(folder: Path) -> Path:
    """``best.ckpt`` of a run's folder or of its ``checkpoints``, else ``last.ckpt``; reports which.

    Raises:
        ValueError: neither is there, with what the folder has instead.
    """
    for name in CHECKPOINTS:
        for place in (folder / "checkpoints" / name, folder / name):
            if place.is_file():
                print(f"{folder}: {place.relative_to(folder)} is used", file=sys.stderr)
                return place
    inside = sorted({path.parent.parent for name in CHECKPOINTS for path in folder.glob(f"*/checkpoints/{name}")})
    if inside:
        latest = max(inside, key=lambda run: run.stat().st_mtime)
        raise ValueError(f"weights: {folder} has {plural(len(inside), 'run')}; give one of them, as {latest}")
    other = next(iter(sorted(folder.glob("*.ckpt"))), None)
    hint = f"; give a file, as {other}" if other else "; give a run's folder or a checkpoint"
    raise ValueError(f"weights: {folder} has no checkpoints/best.ckpt and no checkpoints/last.ckpt{hint}")

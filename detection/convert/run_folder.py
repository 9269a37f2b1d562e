"""Find the checkpoint in the folder of a run."""

import sys
from pathlib import Path

from detection.wording import plural

CHECKPOINTS = ("best.ckpt", "last.ckpt")
MODEL = "model.safetensors"


def model_of(folder: Path) -> Path:
    """Return the file of a run's folder to predict with: ``model.safetensors``, or the checkpoint if that is newer.

    A run writes its checkpoints while it trains, and ``model.safetensors`` from one of them at its end. So a newer
    ``best.ckpt``, or ``last.ckpt`` in a run without a best one, belongs to a run that continues or was killed.

    Raises:
        ValueError: as :func:`checkpoint_of`.
    """
    model = folder / MODEL
    source = next((path for name in CHECKPOINTS if (path := folder / "checkpoints" / name).is_file()), None)
    if model.is_file() and (source is None or source.stat().st_mtime_ns <= model.stat().st_mtime_ns):
        print(f"{folder}: {MODEL} is used", file=sys.stderr)
        return model
    return checkpoint_of(folder)


def checkpoint_of(folder: Path) -> Path:
    """Return ``best.ckpt`` in a run's folder or its ``checkpoints``, else ``last.ckpt``, and print which one.

    Raises:
        ValueError: neither exists; the message names what the folder has instead.
    """
    for name in CHECKPOINTS:
        for place in (folder / "checkpoints" / name, folder / name):
            if place.is_file():
                print(f"{folder}: using {place.relative_to(folder)}", file=sys.stderr)
                return place
    inside = sorted({path.parent.parent for name in CHECKPOINTS for path in folder.glob(f"*/checkpoints/{name}")})
    if inside:
        latest = max(inside, key=lambda run: run.stat().st_mtime)
        raise ValueError(f"weights: {folder} has {plural(len(inside), 'run')}; give one of them, such as {latest}")
    other = next(iter(sorted(folder.glob("*.ckpt"))), None)
    hint = f"; give a file, such as {other}" if other else "; give a run's folder or a checkpoint"
    raise ValueError(f"weights: {folder} has no checkpoints/best.ckpt and no checkpoints/last.ckpt{hint}")

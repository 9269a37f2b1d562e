"""The checkpoint in a run's folder from which training continues."""

from pathlib import Path


def checkpoint_in(folder: str | Path) -> Path | None:
    """The checkpoint that a run in this folder continues from: ``last.ckpt``, or ``best.ckpt`` if there is no other.

    A run that is killed at its first evaluation may have written the best one alone.

    Raises:
        OSError: the folder cannot be looked into, which is no reason to begin again.
    """
    for name in ("last.ckpt", "best.ckpt"):
        path = Path(folder) / "checkpoints" / name
        try:
            path.stat()  # is_file would take a file that cannot be reached for none
        except (FileNotFoundError, NotADirectoryError):
            continue
        return path
    return None

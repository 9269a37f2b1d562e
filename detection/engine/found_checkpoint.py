"""Find the checkpoint in a run's folder from which training resumes."""

from pathlib import Path


def checkpoint_in(folder: str | Path) -> Path | None:
    """Return the checkpoint from which a run in this folder resumes: ``last.ckpt``, else ``best.ckpt``, else None.

    A run that was killed at its first validation may have written only ``best.ckpt``.

    Raises:
        OSError: the folder cannot be read; to start a new run there would be wrong.
    """
    for name in ("last.ckpt", "best.ckpt"):
        path = Path(folder) / "checkpoints" / name
        try:
            path.stat()  # is_file would return False for a file that cannot be accessed
        except (FileNotFoundError, NotADirectoryError):
            continue
        return path
    return None

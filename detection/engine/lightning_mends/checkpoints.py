"""Load checkpoints without running code from them, and report failures of Lightning in one line."""

import traceback
from typing import Any, NoReturn

from detection.data.errors import DataError, first_line
from detection.engine.errors import InputError, NonFiniteError, StoppedError


class NoClassLoading:
    """Disable ``load_from_checkpoint``: Lightning would import class paths and load pickles from a file."""

    @classmethod
    def load_from_checkpoint(cls, *_: Any, **__: Any) -> NoReturn:
        """Raise an error that names a safe alternative.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{cls.__name__}.load_from_checkpoint could run code of the file; use detection.load_model(path), or "
            "Trainer.fit(..., ckpt_path=path)"
        )


def restoring_error(error: BaseException, source: str) -> InputError | None:
    """Return a one-line error if Lightning failed while it restored a checkpoint; None for all other errors.

    Lightning copies states into its objects without a check, and would show a traceback of its own code.
    """
    if isinstance(error, InputError | DataError | NonFiniteError | StoppedError | KeyboardInterrupt | SystemExit):
        return None
    frames = traceback.extract_tb(error.__traceback__)
    if not any(f.filename.endswith("checkpoint_connector.py") and "restore" in f.name for f in frames):
        return None
    return InputError(f"{source}: its training cannot be resumed ({type(error).__name__}: {first_line(error)[:120]})")

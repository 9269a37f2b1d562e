"""Loading checkpoints: no code of a file, and one line where Lightning fails."""

import traceback
from typing import Any, NoReturn

from detection.data.errors import DataError, first_line
from detection.engine.errors import InputError, NonFiniteError, StoppedError


class NoClassLoading:
    """Switches ``load_from_checkpoint`` off: Lightning follows class paths and pickles in a file."""

    @classmethod
    def load_from_checkpoint(cls, *_: Any, **__: Any) -> NoReturn:
        """Not offered.

        Raises:
            InputError: always, with what to use instead.
        """
        raise InputError(
            f"{cls.__name__}.load_from_checkpoint could run code of the file; use detection.load_model(path), or "
            "Trainer.fit(..., ckpt_path=path)"
        )


def restoring_error(error: BaseException, source: str) -> InputError | None:
    """A line for an error that Lightning met while it restored a checkpoint; None for all other errors.

    Lightning copies states into its objects without a check, and shows a traceback of its own code.
    """
    if isinstance(error, InputError | DataError | NonFiniteError | StoppedError | KeyboardInterrupt | SystemExit):
        return None
    frames = traceback.extract_tb(error.__traceback__)
    if not any(f.filename.endswith("checkpoint_connector.py") and "restore" in f.name for f in frames):
        return None
    return InputError(f"{source}: its training cannot be resumed ({type(error).__name__}: {first_line(error)[:120]})")

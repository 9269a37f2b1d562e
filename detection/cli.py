"""The former entry: ``fit|validate|test|predict --config NAME ...``, with settings alone and no short options.

A mistake is reported in one line, and the exit code is 2; ``--debug`` shows where it was noticed.
"""

import sys
from collections.abc import Sequence

from detection.engine.startup import ending_at_signals, report_stop, signalled
from detection.home import command_line
from detection.shadowed import hidden_by_another


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: those of the process if None.

    Returns:
        The exit code: 0; 2 for something that the user should correct; 1 for a training that diverged or lost a
        worker; 128 plus its number for a signal that stopped the training.
    """
    if message := hidden_by_another():
        return _fail(message, 2)
    with ending_at_signals():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    given = command_line(arguments)
    debug = "--debug" in given
    try:
        from detection.engine.command import run

        run([argument for argument in given if argument != "--debug"])
    except KeyboardInterrupt:
        return _stopped()
    except SystemExit as error:  # Lightning's, too, after a KeyboardInterrupt
        return _stopped() if signalled() else error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:
        if signalled() and not hasattr(error, "code"):  # some imports make another error of it
            return _stopped()
        from detection.engine.errors import user_message

        message, code = user_message(error)
        if debug or code is None:
            raise
        return _fail(message, code)
    return 0


def _stopped() -> int:
    return report_stop()


def _fail(message: str, code: int) -> int:
    from detection.foreign import printable

    print(f"error: {printable(message)}", file=sys.stderr)
    return code

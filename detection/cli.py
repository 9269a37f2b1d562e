"""The former command line: ``fit|validate|test|predict --config NAME ...``, with settings but without short options.

An error of the user prints one line and returns exit code 2; ``--debug`` shows the traceback.
"""

from collections.abc import Sequence

from detection.commands.main import exit_code
from detection.commands.printing import fail
from detection.engine.startup import ending_at_signals
from detection.home import command_line
from detection.shadowed import hidden_by_another


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: the arguments; None: those of the process.

    Returns:
        The exit code: 0 for success, 2 for an error that the user can correct, 1 for a training that diverged or lost
        a worker. A signal that stops the training gives 128 plus its number.
    """
    if message := hidden_by_another():
        return fail(message)
    given = command_line(arguments)

    def act() -> int:
        from detection.engine.command import run

        run([argument for argument in given if argument != "--debug"])
        return 0

    with ending_at_signals():
        return exit_code(act, "--debug" in given, trains=True)

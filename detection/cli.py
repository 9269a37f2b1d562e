"""The former entry: ``fit|validate|test|predict --config NAME ...``, with settings alone and no short options.

A mistake is reported in one line, and the exit code is 2; ``--debug`` shows where it was noticed.
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
        arguments: those of the process if None.

    Returns:
        The exit code: 0; 2 for something that the user should correct; 1 for a training that diverged or lost a
        worker; 128 plus its number for a signal that stopped the training.
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

"""The program ``rcnn``, also as ``python -m detection`` and, from a checkout, ``tools/train.py`` and the other tools.

It handles signals before it imports what takes long: Ctrl-C ends it with one line from its first moment on.
"""

import sys

from detection.engine.startup import ending_at_signals, report_stop


def command(name: str | None = None) -> int:
    """Run the command line of this process; returns the exit code.

    Args:
        name: the command, for a program of its own such as ``tools/train.py``; the first argument if None.
    """
    try:
        with ending_at_signals():
            from detection.commands import main

            return main.command(name)
    except KeyboardInterrupt:  # also one that was delayed until the handlers were there
        return report_stop()


if __name__ == "__main__":
    sys.exit(command())

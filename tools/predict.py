"""Detect objects in images and videos: ``tools/predict.py CHECKPOINT IMAGE...``."""

import sys

from detection.engine.startup import ending_at_signals, signalled
from detection.memory import begin_without_crumbs

if __name__ == "__main__":
    with ending_at_signals():
        try:
            begin_without_crumbs()
            from detection.inference.command import main

            main()
        except KeyboardInterrupt:  # during the imports
            message, code = signalled() or ("stopped by SIGINT", 130)
            print(f"predict: {message.split(';')[0]}", file=sys.stderr)
            sys.exit(code)

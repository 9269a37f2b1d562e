"""Curves of runs: ``tools/plot.py runs/first runs/second --output curves.png``."""

from detection.curves import main

if __name__ == "__main__":
    main()

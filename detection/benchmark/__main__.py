"""``python -m detection.benchmark``."""

from detection.benchmark.command import main

main()

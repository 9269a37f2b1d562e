"""Time this toolkit beside torchvision on this machine: ``tools/benchmark.py --sizes 320 800``."""

from detection.benchmark.command import main

if __name__ == "__main__":
    main()

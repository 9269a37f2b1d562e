"""Compare the speed of this toolkit and torchvision on this machine: ``tools/benchmark.py --sizes 320 800``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools is not installed

from tools.benchmark.command import main  # the package beside this file

if __name__ == "__main__":
    main()

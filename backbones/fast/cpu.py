"""What a CPU says of itself."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""Linux alone has it."""


def description() -> str:
    """The text of ``/proc/cpuinfo``, or of another system a line such as ``AMD64 Family 25 ..., AuthenticAMD``."""
    return CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.is_file() else platform.processor()


def vendor() -> str:
    """``AMD``, ``Intel``, or an empty string for all others."""
    names = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}
    told = description()
    return next((name for word, name in names.items() if word in told), "")

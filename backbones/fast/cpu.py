"""The CPU's description of itself."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""This file exists on Linux only."""


def description() -> str:
    """Return the text of ``/proc/cpuinfo``; on other systems a line such as ``AMD64 Family 25 ..., AuthenticAMD``."""
    return CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.is_file() else platform.processor()


def vendor() -> str:
    """Return ``AMD``, ``Intel``, or an empty string for all others."""
    names = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}
    text = description()
    return next((name for word, name in names.items() if word in text), "")

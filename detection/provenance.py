"""Record versions, checksums and the command of a run or an evaluation, to reproduce it and to compare it correctly."""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import detection

PACKAGES = ("torch", "torchvision", "lightning", "albumentations", "opencv-python-headless", "pycocotools", "hotcoco")


def about(
    annotations: Path, sources: Iterable[Path], image_ids: Iterable[int], protocol: str, engine: str
) -> dict[str, Any]:
    """Return versions, checksums and the command of an evaluation.

    Args:
        annotations: annotation file.
        sources: the checkpoint, or the result files.
        image_ids: IDs of the scored images.
        protocol: name of the evaluation protocol, such as ``coco``.
        engine: name of the package that computed the metrics.
    """
    ids = sorted(image_ids)
    return {
        "annotations": str(annotations),
        "annotations_sha256": checksum(annotations),
        "images_scored": len(ids),
        "image_ids_sha256": hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest(),
        "protocol": protocol,
        "engine": f"{engine} {installed(engine)}",
        **{f"sha256_of_{path.name}": checksum(path) for path in sources},
        **software(),
    }


def software() -> dict[str, str]:
    """Return the date, the command, and the versions of the toolkit, its packages and Python."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command_line(),
        "rcnn_toolkit": detection.__version__ + commit(),
        **{package: installed(package) for package in PACKAGES},
        "python": platform.python_version(),
    }


def command_line() -> str:
    """Return the command that started this process, quoted for a shell.

    Example:
        >>> command_line()  # doctest: +SKIP
        "rcnn train demo --data 'my data'"
    """
    words = sys.orig_argv[1:]  # sys.argv may be the completed line of a subcommand
    if words[:2] == ["-m", "detection"]:
        return shlex.join(["rcnn", *words[2:]])
    if words and Path(words[0]).name == "rcnn":
        return shlex.join(["rcnn", *words[1:]])
    return shlex.join(["python", *words])


def environment() -> dict[str, str]:
    """Return versions and hardware, for a bug report."""
    from detection.device import accelerator_name, processor_name

    versions = software()
    del versions["date"], versions["command"]
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return versions | {
        "system": platform.platform(),
        "cpu": f"{processor_name()}, {cpus} CPUs, {torch.backends.cpu.get_cpu_capability()}",
        "gpu": accelerator_name() or "none",
        "cuda": str(torch.version.cuda),
        "threads": str(torch.get_num_threads()),
        "rcnn_fast": os.environ.get("RCNN_FAST", "not set"),
    }


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def installed(package: str) -> str:
    """Return the version of a package, or ``not installed``."""
    if package == "torch":
        return str(torch.__version__)  # also names the device for which it was built
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Return the commit of the toolkit's checkout in brackets, after a space; "" for an installed package."""
    root = Path(detection.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return f" ({found.stdout.strip()})"

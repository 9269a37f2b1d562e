"""Compute the memory that workers need, limit the number of workers, and explain why a worker died."""

import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from detection.data.collate import MIN_OBJECTS, own_canvases
from detection.data.transforms import Resize
from detection.engine.errors import lost_worker

if TYPE_CHECKING:
    from detection.data.dataset import CocoDataset

PREFETCH = 2
"""Batches that each worker prepares in advance, PyTorch's default."""
SHARED = "/dev/shm"


def batch_bytes(
    images: int,
    canvas: tuple[int, int],
    objects: int,
    masks: bool,
    mask_size: int = 112,
    pixel_bytes: int = 3,
    keypoints: int = 0,
) -> int:
    """Return the bytes of a batch.

    Args:
        images: number of images.
        canvas: height, width in pixels.
        objects: number of objects of the image with the most objects.
        masks: the batch has masks.
        mask_size: height and width of a mask, in pixels.
        pixel_bytes: bytes per pixel, of all channels together.
        keypoints: number of keypoints of an object in the batch.
    """
    room = MIN_OBJECTS
    while room < objects:
        room *= 2
    each = 4 * 4 + 8 + 1 + (mask_size**2 if masks else 0) + 12 * keypoints  # box, label, crowd, ...
    return images * (pixel_bytes * canvas[0] * canvas[1] + room * each)


def loader_bytes(batch: int, workers: int) -> int:
    """Return the bytes of shared memory for all prepared batches of the workers."""
    return batch * PREFETCH * workers


def largest_canvas(sizes: np.ndarray, resize: Resize, divisor: int = 32) -> tuple[int, int]:
    """Return height and width of the smallest canvas that holds every image after resizing.

    Args:
        sizes: (n, 2) height, width of the images.
        divisor: height and width are multiples of it.
    """
    different = np.unique(sizes.reshape(-1, 2), axis=0)
    height, width = own_canvases(different, resize, divisor).max(axis=0, initial=divisor)
    return int(height), int(width)


def workers_that_fit(workers: int, batch: int, free: int | None = None) -> int:
    """Return the number of workers for which /dev/shm has room, at most ``workers``; print a line if it is fewer.

    A worker without room there would crash with SIGBUS, without an explanation.

    Args:
        batch: size of a batch, in bytes.
        free: free bytes of /dev/shm; None: read them from the system.
    """
    if free is None:
        free = shared_memory()
    if free is None or workers == 0 or loader_bytes(batch, workers) <= free:
        return workers
    fitting = int(free // loader_bytes(batch, 1))
    print(
        f"data.workers {workers} would need {loader_bytes(batch, workers) / 1e6:.0f} MB of {SHARED}, which has "
        f"{free / 1e6:.0f} MB free: {fitting} instead; give a container more with --shm-size",
        file=sys.stderr,
    )
    return fitting


def shared_memory() -> int | None:
    """Return the free bytes of shared memory; None if the system has no /dev/shm."""
    try:
        found = os.statvfs(SHARED)
    except (OSError, AttributeError):
        return None
    return found.f_bavail * found.f_frsize


def allow_open_files(needed: int = 4096) -> None:
    """Raise the soft limit of open files to ``needed``: each tensor from a worker needs one."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        wished = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wished), hard))


def explain_worker(error: BaseException, datasets: Sequence["CocoDataset"]) -> str | None:
    """Return the files that a worker was reading when it died or hung; None if the error is not about a worker."""
    if not lost_worker(error):
        return None
    pids = {int(number) for number in re.findall(r"\d+", str(error))}
    found = []
    for dataset in datasets:
        busy = {worker: (pid, index) for worker, (pid, index) in dataset.reading_now().items() if index >= 0}
        dead = {worker: at for worker, at in busy.items() if at[0] in pids} or busy
        found += [f"worker {worker} (pid {pid}) was reading {dataset.path(i)}" for worker, (pid, i) in dead.items()]
    return "; ".join(found[:8]) or "no worker was reading an image"

"""Where images come from: files, folders, patterns, videos, a camera."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detection.data.image import read_image
from detection.structures import Depth

IMAGES = {".npy", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".avif"}
IMAGES |= {".tif", ".tiff", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".ras"}
"""What :func:`~detection.data.image.read_image` reads: Pillow the header, and OpenCV the pixels."""
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}
COUNTED = {".mp4", ".avi", ".mov", ".m4v"}
"""Videos whose header counts the frames."""
CAMERA = "camera:"


class VideoError(ValueError):
    """A video or camera that cannot be opened."""


@dataclass(frozen=True)
class Source:
    """An image file, a video file, or a camera (``camera:0``)."""

    name: str
    """Where its results go below the output folder: its path in the folder that was named or that a pattern begins
    with, or its own name."""
    path: Path
    kind: str
    """``image``, ``video`` or ``camera``."""


def sources(named: Sequence[str], left_out: list[Path] | None = None) -> list[Source]:
    """What files, folders (with all below), patterns and ``camera:0`` stand for.

    Args:
        left_out: takes the other files of the folders and patterns, which are neither images nor videos by their names.

    Raises:
        ValueError: nothing there, a camera without a number, or two files that would write one result.
    """
    found: list[Source] = []
    for text in named:
        path = Path(text)
        if text.startswith(CAMERA):
            if not text.removeprefix(CAMERA).isdecimal():
                raise ValueError(f"{text}: a camera is told by its number, as {CAMERA}0")
            found.append(Source(text.replace(":", "_"), Path(text.removeprefix(CAMERA)), "camera"))
        elif path.is_dir():
            inside = _known(path.rglob("*"), left_out)
            found += [_source(p, str(p.relative_to(path))) for p in inside]
        elif path.exists() or not glob.has_magic(text):
            found.append(_source(path, path.name))
        else:
            matches = [Path(match) for match in glob.glob(text, recursive=True)]
            if not matches:
                raise ValueError(f"{text}: no file fits this pattern")
            begin = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
            found += [_source(p, str(p.relative_to(begin))) for p in _known(matches, left_out)]
    if not found:
        raise ValueError(f"no images in {', '.join(named) or 'nothing'}")
    seen: dict[str, Path] = {}
    for source in found:
        other = seen.setdefault(str(Path(source.name).with_suffix("")), source.path)
        if other != source.path:
            raise ValueError(f"{other} and {source.path} would write one result; predict them apart")
    return found


def frames(source: Source, cut_off: list[str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """(number, (H, W, 3) uint8 RGB) of each frame of a video or camera.

    Args:
        cut_off: takes a line about a video that ends before its header says so.

    Raises:
        VideoError: it cannot be opened.
    """
    capture = cv2.VideoCapture(int(str(source.path)) if source.kind == "camera" else str(source.path))
    try:
        if not capture.isOpened():
            raise VideoError(f"{source.path}: cannot be opened as a {source.kind}")
        number = 0
        while True:
            good, frame = capture.read()
            if not good:
                if source.kind == "video" and cut_off is not None and (missing := _missing(capture, source, number)):
                    cut_off.append(missing)
                return
            yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1
    finally:
        capture.release()


def _missing(capture: Any, source: Source, read: int) -> str:
    """A line about frames that a video's header claims and that cannot be read; empty if there are none.

    AVI and MP4 count their frames. In other containers the number is an estimate, of length times frame rate: there the
    end must be missing, by more than 3 frames and 2 % of the length.
    """
    claimed, speed = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    if read and claimed > read and source.path.suffix.lower() not in COUNTED:
        end = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 * speed + 1  # in frames
        claimed = claimed if claimed - end > max(3, 0.02 * claimed) else read
    if claimed > read:
        return f"{source.path}: {read} of {claimed} frames could be read; the file is damaged or cut off"
    return "" if read else f"{source.path}: no frame could be read; the file is damaged or empty"


def batches(
    found: Sequence[Source], size: int, failed: list[str], channels: int = 3, depth: Depth = 8
) -> Iterator[list[tuple[Source, np.ndarray]]]:
    """Images that can be read, so many at a time; of one that cannot, the reason is put into ``failed``."""
    waiting: list[tuple[Source, np.ndarray]] = []
    for source in found:
        try:
            waiting.append((source, read_image(source.path, channels=channels, depth=depth)))
        except ValueError as error:
            failed.append(str(error))
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def video_writer(path: Path, like: Source, height: int, width: int) -> Any:
    """An MP4 of the same speed."""
    capture = cv2.VideoCapture(str(like.path)) if like.kind == "video" else None
    speed = capture.get(cv2.CAP_PROP_FPS) if capture else 0
    return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), speed or 20.0, (width, height))


def _known(paths: Iterable[Path], left_out: list[Path] | None) -> list[Path]:
    """Images and videos, sorted; other files go into ``left_out``."""
    known = []
    for path in sorted(paths):
        if path.suffix.lower() in IMAGES | VIDEOS:
            known.append(path)
        elif left_out is not None and path.is_file():
            left_out.append(path)
    return known


def _source(path: Path, name: str) -> Source:
    return Source(name, path, "video" if path.suffix.lower() in VIDEOS else "image")

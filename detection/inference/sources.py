"""Find and read the images of files, folders, patterns, videos and cameras."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detection.data.image import read_image
from detection.data.signatures import SUFFIXES
from detection.structures import Depth
from detection.wording import plural

VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}
COUNTED = {".mp4", ".avi", ".mov", ".m4v"}
"""Videos with a header that counts the frames."""
CAMERA = "camera:"


class VideoError(ValueError):
    """A video or camera that cannot be opened."""


@dataclass(frozen=True)
class Source:
    """An image file, a video file, or a camera (``camera:0``)."""

    name: str
    """The place of its results below the output folder: its path in the named folder, or in the folder that a pattern
    begins with; else its own name."""
    path: Path
    kind: str
    """``image``, ``video`` or ``camera``."""


def sources(named: Sequence[str], left_out: list[Path] | None = None) -> list[Source]:
    """List the images, videos and cameras that files, folders (with all below), patterns and ``camera:0`` stand for.

    Args:
        left_out: gets the other files of the folders and patterns, named neither as images nor as videos.

    Raises:
        ValueError: nothing is there, a URL, a camera without a number, or two files that would write one result.
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
            found += [_source(p, p.relative_to(path).as_posix()) for p in inside]
        elif "://" in text:
            raise ValueError(f"{text}: is a URL; download the file, and give its path")
        elif path.exists():
            found.append(_source(path, path.name))
        elif not glob.has_magic(text):
            raise ValueError(f"{text}: no such file or folder")
        else:
            matches = [Path(match) for match in glob.glob(text, recursive=True)]
            if not matches:
                raise ValueError(f"{text}: no file fits this pattern")
            begin = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
            found += [_source(p, p.relative_to(begin).as_posix()) for p in _known(matches, left_out)]
    if not found:
        raise ValueError(f"no images in {', '.join(named) or 'nothing'}")
    seen: dict[str, Path] = {}
    for source in found:
        other = seen.setdefault(str(Path(source.name).with_suffix("")), source.path)
        if other != source.path:
            raise ValueError(f"{other} and {source.path} would write one result; predict them apart")
    return found


def frames(source: Source, cut_off: list[str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the frames of a video or camera: (number, (H, W, 3) uint8 RGB).

    Args:
        cut_off: gets a line about a video that ends earlier than its header says.

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
    """Return a line about frames that a video's header claims and that cannot be read; empty if there are none.

    AVI and MP4 count their frames. In other containers the number is an estimate, length times frame rate: a video is
    reported only if its last frame comes more than 3 frames and 2 % of the length too early.
    """
    claimed, speed = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    if read and claimed > read and source.path.suffix.lower() not in COUNTED:
        end = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 * speed + 1  # in frames
        claimed = claimed if claimed - end > max(3, 0.02 * claimed) else read
    if claimed > read:
        return f"{source.path}: {read} of {plural(claimed, 'frame')} could be read; the file is damaged or cut off"
    return "" if read else f"{source.path}: no frame could be read; the file is damaged or empty"


def batches(
    found: Sequence[Source], size: int, failed: list[str], channels: int = 3, depth: Depth = 8
) -> Iterator[list[tuple[Source, np.ndarray]]]:
    """Yield ``size`` readable images at a time; the reason why another cannot be read goes into ``failed``."""
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
    """Open an MP4 of the same speed for writing."""
    capture = cv2.VideoCapture(str(like.path)) if like.kind == "video" else None
    speed = capture.get(cv2.CAP_PROP_FPS) if capture else 0
    return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), speed or 20.0, (width, height))


def _known(paths: Iterable[Path], left_out: list[Path] | None) -> list[Path]:
    """Return the images and videos, sorted; other files go into ``left_out``."""
    known = []
    for path in sorted(paths):
        if path.suffix.lower() in SUFFIXES | VIDEOS:
            known.append(path)
        elif left_out is not None and path.is_file():
            left_out.append(path)
    return known


def _source(path: Path, name: str) -> Source:
    return Source(name, path, "video" if path.suffix.lower() in VIDEOS else "image")

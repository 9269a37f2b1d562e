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
"""Video formats whose header contains the number of frames."""
CAMERA = "camera:"


class VideoError(ValueError):
    """A video or camera that cannot be opened."""


@dataclass(frozen=True)
class Source:
    """An image file, a video file, or a camera (``camera:0``)."""

    name: str
    """Relative path of its results in the output folder: the path below the given folder, or below the fixed start of
    a pattern; for a single file, the file name."""
    path: Path
    kind: str
    """``image``, ``video`` or ``camera``."""


def sources(named: Sequence[str], left_out: list[Path] | None = None) -> list[Source]:
    """Return the images, videos and cameras for the given files, folders, patterns and ``camera:0``.

    The function searches folders recursively.

    Args:
        named: files, folders, patterns and cameras.
        left_out: list that gets the other files in the folders and patterns: their suffix is unknown.

    Raises:
        ValueError: a path does not exist or is a URL, a camera has no number, there are no images, or two files would
            write the same result.
    """
    found: list[Source] = []
    for text in named:
        path = Path(text)
        if text.startswith(CAMERA):
            if not text.removeprefix(CAMERA).isdecimal():
                raise ValueError(f"{text}: a camera needs a number; write for example {CAMERA}0")
            found.append(Source(text.replace(":", "_"), Path(text.removeprefix(CAMERA)), "camera"))
        elif path.is_dir():
            inside = _known(path.rglob("*"), left_out)
            found += [_source(p, p.relative_to(path).as_posix()) for p in inside]
        elif "://" in text:
            raise ValueError(f"{text}: is a URL; download the file, and give its path")
        elif path.exists():
            found.append(_source(path, path.name))
        elif not glob.has_magic(text):
            raise ValueError(f"{text}: no such file or folder; check the path")
        else:
            matches = [Path(match) for match in glob.glob(text, recursive=True)]
            if not matches:
                raise ValueError(f"{text}: no file matches this pattern; check the path")
            begin = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
            found += [_source(p, p.relative_to(begin).as_posix()) for p in _known(matches, left_out)]
    if not found:
        raise ValueError(f"no images in {', '.join(named) or 'nothing'}; give image files or folders with images")
    seen: dict[str, Path] = {}
    for source in found:
        other = seen.setdefault(str(Path(source.name).with_suffix("")), source.path)
        if other != source.path:
            raise ValueError(
                f"{other} and {source.path} would write the same result file; predict them in separate calls"
            )
    return found


def frames(source: Source, cut_off: list[str] | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the frames of a video or camera: (number, (H, W, 3) uint8 RGB).

    Args:
        source: the video or camera.
        cut_off: list that gets a line if the video ends earlier than its header says.

    Raises:
        VideoError: the video or camera cannot be opened.
    """
    capture = cv2.VideoCapture(int(str(source.path)) if source.kind == "camera" else str(source.path))
    try:
        if not capture.isOpened():
            raise VideoError(
                f"{source.path}: cannot be opened as a {source.kind}; check that it exists and is readable"
            )
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
    """Return a line if a video has fewer readable frames than its header says; else an empty text.

    AVI and MP4 store the number of frames. In other containers it is an estimate: length times frame rate. For these,
    the function reports a video only if it ends more than 3 frames and more than 2 % too early.
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
    """Yield ``size`` readable images at a time; add the error of each unreadable image to ``failed``."""
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
    """Open an MP4 for writing, with the frame rate of ``like`` (20 for a camera)."""
    capture = cv2.VideoCapture(str(like.path)) if like.kind == "video" else None
    speed = capture.get(cv2.CAP_PROP_FPS) if capture else 0
    return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), speed or 20.0, (width, height))


def _known(paths: Iterable[Path], left_out: list[Path] | None) -> list[Path]:
    """Return the images and videos, sorted; add other files to ``left_out``."""
    known = []
    for path in sorted(paths):
        if path.suffix.lower() in SUFFIXES | VIDEOS:
            known.append(path)
        elif left_out is not None and path.is_file():
            left_out.append(path)
    return known


def _source(path: Path, name: str) -> Source:
    return Source(name, path, "video" if path.suffix.lower() in VIDEOS else "image")

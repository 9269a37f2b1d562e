"""Detect objects in files, folders and videos, and write images and data; ``rcnn predict`` calls this module."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from detection.device import inference_device
from detection.engine.startup import raise_if_signalled
from detection.export.loading import is_exported
from detection.fast.folding import folded
from detection.foreign import printable, shown
from detection.inference.api import load_detector, predict_group
from detection.inference.images import Image
from detection.inference.options import LEAST, check_apart, check_least
from detection.inference.outputs import Writer
from detection.inference.prediction import Prediction
from detection.inference.sources import Source, VideoError, batches, frames, sources, video_writer
from detection.inference.tally import Tally
from detection.inference.thresholds import check_known, class_names, lines_of, read_thresholds
from detection.models.detector import Detector
from detection.models.mask_forms import mask_config
from detection.models.panoptic import PanopticFPN, SemanticFPN, WithSemanticHead
from detection.quiet import is_quiet
from detection.wording import plural


def predict_files(options: argparse.Namespace, failed: list[str], cut_off: list[str]) -> dict[str, Any]:
    """Predict, write the results, print a summary, and return the summary as numbers.

    Args:
        options: options of ``rcnn predict``.
        failed: list that gets a line about images and videos that cannot be read.
        cut_off: list that gets a line about each video that ends early.

    Raises:
        ValueError: an option is wrong.
        KeyboardInterrupt: the process received a signal. The caller puts the name of the signal before the message.
    """
    check_least(options, LEAST | {"frames": 1})
    check_apart(vars(options), "--")
    if options.precision == "bf16" and is_exported(options.model):
        raise ValueError(f"--precision bf16: {options.model} is exported, and keeps its own precision; leave it out")
    device = inference_device(options.device)
    model = load_detector(options.model, options.trust_code)
    model.to(device)
    left_out: list[Path] = []
    found = sources(options.images, left_out)
    names = class_names(model)
    options.score = read_thresholds(options.score or (), names)
    if options.score == "model":
        print("\n".join(lines_of(model)))
    if "masks" in options.save and mask_config(model) is None:
        raise ValueError(f"--save masks: {options.model} predicts only boxes; remove masks")
    for kind, fits in (("labels", WithSemanticHead), ("panoptic", PanopticFPN)):
        if kind in options.save and not isinstance(model, fits):
            raise ValueError(f"--save {kind}: {options.model} has no semantic head for it; remove {kind}")
    if isinstance(model, SemanticFPN) and options.across_classes:
        raise ValueError(f"--across-classes: {options.model} finds no objects; leave it out")
    if options.across_classes:
        model.last_head.config = replace(model.last_head.config, nms_across_classes=True)
    ids = model.categories.ids if model.categories else tuple(range(model.num_classes))
    if options.precision == "bf16":
        model = folded(model)
    wanted = _wanted(options.classes, names)
    writer, tally = Writer(options.output, options.save, names, ids), Tally(names)
    images = [source for source in found if source.kind == "image"]
    videos = [source for source in found if source.kind != "image"]
    units = "frames" if not images else "images and frames" if videos else "images"
    unread: list[str] = []
    unopened: list[str] = []
    seen = 0
    try:
        for one in _images(model, images, writer, options, wanted, unread):
            tally.add(one)
        for video in videos:
            try:
                for one in _video(model, video, writer, options, wanted, cut_off):
                    tally.add(one)
                    seen += 1
            except VideoError as error:
                unopened.append(str(error))
    except KeyboardInterrupt:
        writer.close()
        raise KeyboardInterrupt(f"; {units} done: {len(writer)}, with their results in {options.output}") from None
    written = writer.close()
    counts = [plural(len(images) - len(unread), "image")] if images else []
    counts += [plural(seen, "frame")] if videos else []
    print(f"{', '.join(counts)}: {options.output}" + "".join(f", {path}" for path in written))
    unit = ("image or frame", units) if images and seen else ("image", "images") if images else ("frame", "frames")
    print("\n".join(tally.lines(*unit)))
    if left_out:
        print(f"skipped {plural(len(left_out), 'other file')}, for example {shown(left_out[0], None)}")
    if unread or unopened:
        lines = "\n  ".join(map(printable, unread + unopened))
        what = plural(len(unread + unopened), "file" if unopened else "image")
        failed.append(f"could not read {what}:\n  {lines}")
    return {
        "images": len(images) - len(unread),
        "frames": seen,
        "objects": tally.counts(),
        "output": str(options.output),
        "files": [str(path) for path in written],
        "unread": unread + unopened,
        "cut_off": cut_off,
    }


def _predict(model: Detector, some: list[tuple[Source, np.ndarray]], options: argparse.Namespace) -> list[Prediction]:
    """Return the predictions of some images, in the wanted precision."""
    raise_if_signalled()
    images: list[Image] = [image for _, image in some]
    sides = options.short_sides or ()
    with torch.autocast(model.pixel_mean.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        return predict_group(model, images, options.score, options.size, options.tile, sides, options.flip)


def _images(
    model: Detector,
    images: list[Source],
    writer: Writer,
    options: argparse.Namespace,
    wanted: list[int],
    unread: list[str],
) -> Iterator[Prediction]:
    """Yield the detections of each image after writing them."""
    with tqdm(total=len(images), unit="image", disable=len(images) < 2 or is_quiet()) as bar:
        for some in batches(images, options.batch, unread, len(model.pixel_mean), model.depth):
            for (source, image), one in zip(some, _predict(model, some, options), strict=True):
                one = one.only(np.isin(one.labels, wanted))
                writer.add(source.name, image, one)
                yield one
                if options.verbose:
                    bar.write(f"{shown(source.path, None)}: {len(one)} found")
            bar.update(len(some))


def _video(
    model: Detector,
    source: Source,
    writer: Writer,
    options: argparse.Namespace,
    wanted: list[int],
    cut_off: list[str],
) -> Iterator[Prediction]:
    """Yield the detections of each frame after writing them; after a signal, the video has all frames so far."""
    video = None
    try:
        shown_frames = tqdm(frames(source, cut_off), desc=shown(source.name), unit="frame", disable=is_quiet())
        for number, frame in shown_frames:
            if options.frames and number >= options.frames:
                break
            one = _predict(model, [(source, frame)], options)[0]
            one = one.only(np.isin(one.labels, wanted))
            picture = writer.add(source.name, frame, one, number)
            if picture is not None:
                if video is None:
                    path = writer.path(source.name, ".mp4")
                    video = video_writer(path, source, *picture.shape[:2])
                video.write(np.ascontiguousarray(picture[..., ::-1]))
            yield one
    finally:
        if video is not None:
            video.release()


def _wanted(classes: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    """Return the labels of the given classes; all labels if no class is given."""
    check_known(classes or (), names, "--classes")
    return [k for k, name in enumerate(names) if not classes or name in classes]

"""``tools/predict.py``: detect objects in images and videos, and write pictures and data."""

import argparse
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detection.device import inference_device
from detection.engine.startup import ending_at_signals, signalled
from detection.foreign import printable, shown
from detection.home import command_line
from detection.inference.api import load_model, predict, predict_batch
from detection.inference.options import LEAST, check_apart, check_least
from detection.inference.outputs import Writer
from detection.inference.prediction import Prediction
from detection.inference.sources import Source, VideoError, batches, frames, sources, video_writer
from detection.inference.tally import Tally
from detection.inference.thresholds import check_known, class_names, read_thresholds, spread
from detection.models.rcnn import FasterRCNN, MaskRCNN
from detection.wording import plural


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict, and leave pictures and files.

    The exit code is 2 for a wrong option, before any work; 128 plus its number for a signal, after which the results so
    far stay; 3 if a video ended before the end that its header claims; 1 if other images or videos could not be read;
    else 0.
    """
    parser = _parser()
    options = parser.parse_args(spread(command_line(arguments)))
    failed: list[str] = []
    cut_off: list[str] = []
    with ending_at_signals():
        try:
            _run(options, failed, cut_off)
        except (OSError, ValueError) as error:
            parser.exit(2, f"predict: {printable(error)}\n")
        except KeyboardInterrupt as stop:
            _, code = signalled() or ("", 128 + signal.SIGINT)
            parser.exit(code, f"predict: stopped by {signal.Signals(code - 128).name}{printable(stop)}\n")
    if failed or cut_off:
        parser.exit(3 if cut_off else 1, "".join(f"predict: {line}\n" for line in [*failed, *map(printable, cut_off)]))


def _run(options: argparse.Namespace, failed: list[str], cut_off: list[str]) -> None:
    """Predict, write, and print what was found.

    Args:
        failed: gets a line about images and videos that cannot be read.
        cut_off: gets a line about each video that ends early.

    Raises:
        ValueError: a wrong option.
        KeyboardInterrupt: a signal came; the message goes on behind its name.
    """
    check_least(options, LEAST | {"frames": 1})
    check_apart(vars(options), "--")
    device = inference_device(options.device)
    model = load_model(options.checkpoint, options.trust_code)
    model.to(device)
    left_out: list[Path] = []
    found = sources(options.images, left_out)
    names = class_names(model)
    options.score = read_thresholds(options.score or (), names)
    if "masks" in options.save and not isinstance(model, MaskRCNN):
        raise ValueError(f"--save masks: {options.checkpoint} has no mask head and finds boxes only; leave masks out")
    if options.across_classes:
        model.box_head.config = replace(model.box_head.config, nms_across_classes=True)
    ids = model.categories.ids if model.categories else tuple(range(model.num_classes))
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
        print(f"{plural(len(left_out), 'other file was', 'other files were')} left out, as {shown(left_out[0], None)}")
    if unread or unopened:
        lines = "\n  ".join(map(printable, unread + unopened))
        what = plural(len(unread + unopened), "file" if unopened else "image")
        failed.append(f"{what} could not be read:\n  {lines}")


def _predict(model: FasterRCNN, some: list[tuple[Source, np.ndarray]], options: argparse.Namespace) -> list[Prediction]:
    images = [image for _, image in some]
    if options.tile or options.flip or options.short_sides:
        how = {"tile": options.tile, "flip": options.flip, "short_sides": options.short_sides or ()}
        return [predict(model, image, options.score, options.size, **how) for image in images]
    return predict_batch(model, images, options.score, options.size)


def _images(
    model: FasterRCNN,
    images: list[Source],
    writer: Writer,
    options: argparse.Namespace,
    wanted: list[int],
    unread: list[str],
) -> Iterator[Prediction]:
    """Yield the detections of each image, once they are written."""
    with tqdm(total=len(images), unit="image", disable=len(images) < 2) as bar:
        for some in batches(images, options.batch, unread, len(model.pixel_mean), model.depth):
            for (source, image), one in zip(some, _predict(model, some, options), strict=True):
                one = one.only(np.isin(one.labels, wanted))
                writer.add(source.name, image, one)
                yield one
                if options.verbose:
                    bar.write(f"{shown(source.path, None)}: {len(one)} found")
            bar.update(len(some))


def _video(
    model: FasterRCNN,
    source: Source,
    writer: Writer,
    options: argparse.Namespace,
    wanted: list[int],
    cut_off: list[str],
) -> Iterator[Prediction]:
    """Yield the detections of each frame, once they are written; a signal leaves a whole video of those so far."""
    video = None
    try:
        for number, frame in tqdm(frames(source, cut_off), desc=shown(source.name), unit="frame"):
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
    """Return the labels of the classes asked for; all of them if none is."""
    check_known(classes or (), names, "--classes")
    return [k for k, name in enumerate(names) if not classes or name in classes]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="predict", description="Detect objects in images and videos.")
    parser.add_argument("checkpoint", help="a checkpoint, or weights such as torchvision:maskrcnn_resnet50_fpn_v2")
    parser.add_argument("images", nargs="+", help="files, folders, patterns, videos, or camera:0")
    parser.add_argument(
        "--output", type=Path, default=Path("predictions"), help="folder for the results (default predictions)"
    )
    parser.add_argument(
        "--save", nargs="+", default=["pictures"], choices=["pictures", "json", "csv", "masks"], help="what to write"
    )
    parser.add_argument(
        "--score",
        action="append",
        metavar="SCORE",
        help="drop detections with lower scores: 0.5, or by class, as person=0.6 car=0.3, or a number and then classes",
    )
    parser.add_argument(
        "--across-classes", action="store_true", help="of boxes that overlap, keep the best one, whatever their classes"
    )
    parser.add_argument("--classes", nargs="+", help="keep only these")
    parser.add_argument("--batch", type=int, default=4, help="images at a time (default 4)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("SHORT", "LONG"), help="shortest and longest side to resize to"
    )
    parser.add_argument("--tile", type=int, help="look at squares of this many pixels, for very large images")
    parser.add_argument("--flip", action="store_true", help="look at each mirrored image, too")
    parser.add_argument("--short-sides", type=int, nargs="+", help="look at each image at these sizes")
    parser.add_argument("--frames", type=int, help="read at most this many frames of a video or camera")
    parser.add_argument("--device", help="cuda if there is a GPU, else cpu")
    parser.add_argument("--trust-code", action="store_true", help="import a custom backbone that the checkpoint names")
    parser.add_argument("--verbose", action="store_true", help="print a line for each image")
    return parser

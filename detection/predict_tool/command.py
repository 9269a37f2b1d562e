"""``tools/predict.py``: what a detector finds in images and videos, as pictures and as data."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detection.device import inference_device
from detection.foreign import printable, shown
from detection.home import command_line
from detection.inference import Prediction, load_model, predict, predict_batch
from detection.models.rcnn import FasterRCNN
from detection.predict_tool.outputs import Writer
from detection.predict_tool.sources import Source, batches, frames, sources, video_writer
from detection.predicting.options import LEAST, check_apart, check_least


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict, and leave pictures and files; exit code 1 if some images could not be read."""
    parser = _parser()
    options = parser.parse_args(command_line(arguments))
    failed: list[str] = []
    left_out: list[Path] = []
    try:
        check_least(options, LEAST | {"frames": 1})
        check_apart(vars(options), "--")
        if not 0 <= options.score <= 1:
            raise ValueError(f"--score {options.score:g}: must be from 0 to 1")
        device = inference_device(options.device)
        model = load_model(options.checkpoint, options.trust_code)
        model.to(device)
        found = sources(options.images, left_out)
        names = model.categories.names if model.categories else tuple(str(k) for k in range(model.num_classes))
        ids = model.categories.ids if model.categories else tuple(range(model.num_classes))
        wanted = _wanted(options.classes, names)
        writer = Writer(options.output, options.save, names, ids)
        images = [source for source in found if source.kind == "image"]
        with tqdm(total=len(images), unit="image", disable=len(images) < 2) as bar:
            for some in batches(images, options.batch, failed, len(model.pixel_mean), model.depth):
                for (source, image), one in zip(some, _predict(model, some, options), strict=True):
                    one = one.only(np.isin(one.labels, wanted))
                    writer.add(source.name, image, one)
                    if options.verbose:
                        bar.write(f"{shown(source.path, None)}: {len(one)} found")
                bar.update(len(some))
        videos = [source for source in found if source.kind != "image"]
        seen = sum(_video(model, source, writer, options, wanted) for source in videos)
        written = writer.close()
    except (OSError, ValueError) as error:
        parser.exit(2, f"predict: {printable(error)}\n")
    told = [f"{len(images) - len(failed)} images"] if images else []
    told += [f"{seen} frames"] if videos else []
    print(f"{', '.join(told)}: {options.output}" + "".join(f", {path}" for path in written))
    if left_out:
        print(f"{len(left_out)} other files were left out, as {shown(left_out[0], None)}")
    if failed:
        parser.exit(
            1, f"predict: {len(failed)} images could not be read:\n  " + "\n  ".join(map(printable, failed)) + "\n"
        )


def _predict(model: FasterRCNN, some: list[tuple[Source, np.ndarray]], options: argparse.Namespace) -> list[Prediction]:
    images = [image for _, image in some]
    if options.tile or options.flip or options.short_sides:
        how = {"tile": options.tile, "flip": options.flip, "short_sides": options.short_sides or ()}
        return [predict(model, image, options.score, options.size, **how) for image in images]
    return predict_batch(model, images, options.score, options.size)


def _video(
    model: FasterRCNN, source: Source, writer: Writer, options: argparse.Namespace, wanted: list[int]
) -> int:  # fmt: skip
    """How many frames were looked at."""
    video, seen = None, 0
    for number, frame in tqdm(frames(source), desc=shown(source.name), unit="frame"):
        if options.frames and number >= options.frames:
            break
        one = _predict(model, [(source, frame)], options)[0]
        picture = writer.add(source.name, frame, one.only(np.isin(one.labels, wanted)), number)
        if picture is not None:
            if video is None:
                path = writer.path(source.name, ".mp4")
                video = video_writer(path, source, *picture.shape[:2])
            video.write(np.ascontiguousarray(picture[..., ::-1]))
        seen += 1
    if video is not None:
        video.release()
    return seen


def _wanted(classes: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    unknown = [name for name in classes or () if name not in names]
    if unknown:
        raise ValueError(f"--classes {', '.join(unknown)}: the model knows {', '.join(map(shown, names))}")
    return [k for k, name in enumerate(names) if not classes or name in classes]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="predict", description="Detect objects in images and videos.")
    parser.add_argument("checkpoint", help="a checkpoint, or weights such as torchvision:maskrcnn_resnet50_fpn_v2")
    parser.add_argument("images", nargs="+", help="files, folders, patterns, videos, or camera:0")
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="folder for the results")
    parser.add_argument(
        "--save", nargs="+", default=["pictures"], choices=["pictures", "json", "csv", "masks"], help="what to write"
    )
    parser.add_argument("--score", type=float, default=0.5, help="leave out detections scored below")
    parser.add_argument("--classes", nargs="+", help="only these")
    parser.add_argument("--batch", type=int, default=4, help="images at a time")
    parser.add_argument("--size", type=int, nargs=2, metavar=("SHORT", "LONG"), help="sides to resize to")
    parser.add_argument("--tile", type=int, help="look at squares of so many pixels, for very large images")
    parser.add_argument("--flip", action="store_true", help="look at each image in a mirror, too")
    parser.add_argument("--short-sides", type=int, nargs="+", help="look at each image at these sizes")
    parser.add_argument("--frames", type=int, help="of a video or camera, so many at most")
    parser.add_argument("--device", help="cuda where there is one, else cpu")
    parser.add_argument("--trust-code", action="store_true", help="import a custom backbone that the checkpoint names")
    parser.add_argument("--verbose", action="store_true", help="a line for each image")
    return parser

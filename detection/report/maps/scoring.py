"""Score the maps of a model with a semantic head, and write the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.categories import Categories
from detection.checkpoint_files import replacing
from detection.coco.annotations import Annotations
from detection.data.dataset import CocoDataset
from detection.data.reading import Reading
from detection.evaluation import confusion, panoptic
from detection.evaluation.maps import MapEvaluator
from detection.evaluation.percent import percent
from detection.inference.api import maps_of
from detection.inference.detect import detect
from detection.inference.tiles import detect_in_tiles
from detection.models.panoptic import WithSemanticHead
from detection.ops.panoptic import Segment, panoptic_categories
from detection.report.files import plain
from detection.report.maps.counts import Counts, write_counts
from detection.report.maps.page import Case, page
from detection.report.options import EvaluateOptions
from detection.report.pictures import Picture, data_url
from detection.structures import UNLABELLED
from detection.visualize import stretched, tinted


def counts_of(evaluator: MapEvaluator) -> Counts:
    """Return what an evaluator counted."""
    ids, classes = sorted(evaluator.pixels), len(evaluator.truth.categories)
    parts = []
    for place, image_id in enumerate(ids):
        entries, pixels = evaluator.pixels[image_id]
        parts.append(np.stack([np.full_like(entries, place), entries // classes, entries % classes, pixels], axis=1))
    rows = np.concatenate(parts) if parts else np.zeros((0, 4), dtype=np.int64)
    segments = np.stack([evaluator.segments[one] for one in ids]) if evaluator.merging is not None and ids else None
    return Counts(np.array(ids, dtype=np.int64), classes, rows, segments, evaluator.num_things)


def class_names(evaluator: MapEvaluator) -> dict[str, Categories]:
    """Return the classes of each kind of map."""
    own = evaluator.truth.categories
    return {"semantic": own} | (
        {} if evaluator.things is None else {"panoptic": panoptic_categories(evaluator.things, own)}
    )


def analysed(evaluator: MapEvaluator, counts: Counts, resamplings: int) -> dict[str, dict[str, Any]]:
    """Return the numbers with their standard errors, the classes and the confusion matrix of each kind of map."""
    found: dict[str, dict[str, Any]] = {}
    ones = np.ones(len(counts))
    for kind in counts.kinds():
        values, names = counts.values(kind), class_names(evaluator)[kind]
        drawn = np.array(list(counts.samples(kind, resamplings))).reshape(-1, len(values))
        known = np.isfinite(drawn).mean(axis=0) >= 0.99 if len(drawn) > 1 else np.zeros(len(values), dtype=bool)
        errors = np.full(len(values), np.nan)
        errors[known] = np.nanstd(drawn[:, known], axis=0, ddof=1)
        numbers = counts.numbers(kind, ones)
        measures = {name: {"value": value, "error": errors[k]} for k, (name, value) in enumerate(numbers.items())}
        classes: list[dict[str, Any]] = [
            {"id": id, "name": name} for id, name in zip(names.ids, names.names, strict=True)
        ]
        if kind == "semantic":
            matrix = counts.matrix(ones)
            columns = zip(confusion.per_class(matrix).tolist(), matrix.sum(axis=1), matrix.sum(axis=0), strict=True)
            for row, ((iou, accuracy), true, predicted) in zip(classes, columns, strict=True):
                row |= {"IoU": iou, "accuracy": accuracy, "pixels": int(true), "predicted": int(predicted)}
        else:
            assert counts.segments is not None
            total = counts.segments.sum(axis=0)
            for k, (row, (pq, sq, rq), of_class) in enumerate(
                zip(classes, panoptic.per_class(total).tolist(), total.tolist(), strict=True)
            ):
                row |= {"isthing": int(k < counts.things), "PQ": pq, "SQ": sq, "RQ": rq}
                row |= dict(zip(("matched", "wrong", "missed"), map(int, of_class[1:]), strict=True))
        for row, error in zip(classes, errors[len(numbers) :].tolist(), strict=True):
            row["error"] = error
        found[kind] = {"numbers": measures, "classes": classes}
    found["semantic"]["confusion"] = counts.matrix(ones).astype(int).tolist()
    return found


def write_maps(
    folder: Path,
    evaluator: MapEvaluator,
    model: WithSemanticHead,
    annotations: Annotations,
    options: EvaluateOptions,
    about: dict[str, Any],
) -> list[str]:
    """Write the report of maps, and return lines to print.

    Args:
        about: model, data, versions and checksums.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = counts_of(evaluator)
    found = analysed(evaluator, counts, options.resamplings)
    written = write_counts(folder, counts)
    for kind, text in evaluator.tables().items():
        (folder / f"classes_{kind}.csv").write_text(text, encoding="utf-8")
        written.append(f"classes_{kind}.csv")
    worst = cases(evaluator, model, annotations, options, counts)
    with replacing(folder / "maps.html") as file:
        file.write(page(found, about, worst, ["maps.json", *written]).encode())
    content: Any = plain({"about": about, **found, "image_ids": counts.images.tolist(), "things": counts.things})
    (folder / "maps.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    lines = []
    for kind, report in found.items():
        numbers = "  ".join(f"{name} {percent(one['value'], 'n/a')}" for name, one in report["numbers"].items())
        lines.append(f"{kind} maps:  {numbers}")
    return [*lines, f"report of maps: {folder / 'maps.html'}"]


def cases(
    evaluator: MapEvaluator,
    model: WithSemanticHead,
    annotations: Annotations,
    options: EvaluateOptions,
    counts: Counts,
) -> list[Case]:
    """Return the images with the lowest score, with their ground truth and prediction."""
    if options.images is None or not options.pictures:
        return []
    kind = counts.kinds()[-1]
    scores = counts.of_image(kind)
    order = [int(k) for k in np.argsort(scores, kind="stable") if scores[k] < 1][: options.pictures]
    place = {int(one): k for k, one in enumerate(annotations.image_ids)}
    data = CocoDataset(annotations, options.images, reading=Reading(channels=len(model.pixel_mean), depth=model.depth))
    found = []
    for k in order:
        image_id, i = int(counts.images[k]), place[int(counts.images[k])]
        try:
            pixels = data[i].image
        except ValueError:
            found.append(Case(annotations.file_name(i), image_id, float(scores[k])))
            continue
        one = detect_in_tiles(model, pixels, options.tile) if options.tile else detect(model, [pixels])[0]
        maps = maps_of(model, one)
        assert maps is not None
        seen, changed = stretched(pixels)
        things = evaluator.num_things
        if kind == "semantic":
            pair = (tinted(seen, evaluator.truth.semantic(image_id)), tinted(seen, maps.semantic))
        else:
            assert maps.ids is not None
            truth = drawn(seen, *evaluator.truth.panoptic(image_id), things)
            pair = (truth, drawn(seen, maps.ids, maps.segments, things))
        pictures = tuple(Picture(data_url(picture, 800), changed) for picture in pair)
        found.append(Case(annotations.file_name(i), image_id, float(scores[k]), (pictures[0], pictures[1])))
    return found


def drawn(image: np.ndarray, ids: np.ndarray, segments: Sequence[Segment], things: int) -> np.ndarray:
    """Return an image (H, W, 3) with the colours of the classes of its segments, and white borders between segments."""
    present, place = np.unique(ids, return_inverse=True)
    label = {one.id: one.label if one.is_thing else things + one.label - 1 for one in segments}
    colours = np.array([label.get(one, UNLABELLED) % 256 for one in present.tolist()], dtype=np.uint8)
    picture = tinted(image, colours[place.reshape(ids.shape)])
    border = np.zeros(ids.shape, dtype=bool)
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    picture[border] = 255
    return picture

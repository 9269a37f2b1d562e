"""Choose score thresholds from an evaluation, and store them in the file of the detector."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file, save

from detection.checkpoint import checked_info
from detection.checkpoint_files import read_checkpoint, replacing, write_checkpoint
from detection.convert.run_folder import model_of
from detection.documents import parse_json
from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.engines import hotcoco_evaluation
from detection.evaluation.percent import percent
from detection.foreign import shown
from detection.models.thresholds import Thresholds
from detection.report.analysis import true_positives
from detection.report.operating import ClassDetections, Point, choose, parse_rule, temperature
from detection.report.options import EvaluateOptions
from detection.wording import plural

LEAST_FOR_TEMPERATURE = 20
"""Fewest detections from which a temperature is computed."""


def file_to_change(source: str) -> Path:
    """Return the checkpoint or ``.safetensors`` file of a model.

    Raises:
        ValueError: the source is no such file, and no folder of a run.
    """
    path = Path(source)
    if path.is_dir() and not (path / "model.json").is_file():
        path = model_of(path)
    if path.suffix not in (".ckpt", ".safetensors") or not path.is_file():
        raise ValueError(
            f"--set-thresholds: {source} is no checkpoint of this toolkit, which could hold thresholds; for an export, "
            "set those of the checkpoint, and export it again"
        )
    return path


def set_thresholds(options: EvaluateOptions, evaluator: CocoEvaluator) -> list[str]:
    """Choose thresholds by the rule of the options, store them in the model's file, and return lines for the user."""
    assert options.set_thresholds is not None
    path = file_to_change(options.what[0])
    names = _names_of(path)
    found, points = chosen(options.set_thresholds, evaluator, names, options.calibrate, options.resamplings)
    store(path, found)
    lines = [_line(name, point) for name, point in zip(names, points, strict=True) if point is not None]
    unknown = [name for name, point in zip(names, points, strict=True) if point is None]
    if unknown:
        lines.append(f"no threshold, because no object was found: {', '.join(map(shown, unknown[:5]))}")
    if found.temperature is not None:
        lines.append(f"temperature of the scores: {found.temperature:.3f}")
    return [*lines, f"thresholds: {path}; use them with rcnn predict --score model"]


def chosen(
    text: str, evaluator: CocoEvaluator, names: Sequence[str], calibrate: bool = False, resamplings: int = 100
) -> tuple[Thresholds, list[Point | None]]:
    """Return the thresholds for classes by name, and what they give.

    Args:
        text: a rule; see :func:`~detection.report.operating.parse_rule`.
        evaluator: has the detections; masks count if it scores them, else boxes.
        names: of the model's classes.
        calibrate: compute a temperature, too.
        resamplings: bootstrap samples of the images.

    Raises:
        ValueError: the text is no rule, or there are too few detections for a temperature.
    """
    rule, kind = parse_rule(text), evaluator.iou_types[-1]
    truth, results = evaluator.truth(kind), evaluator.results(kind)
    right = true_positives(hotcoco_evaluation(truth, results, kind, evaluator.max_detections), results)
    number = {image["id"]: k for k, image in enumerate(truth["images"])}
    scores, labels, images = (np.array([one[key] for one in results]) for key in ("score", "category_id", "image_id"))
    ids = dict(zip(evaluator.categories.names, evaluator.categories.ids, strict=True))
    points: list[Point | None] = []
    for name in names:
        objects = np.zeros(len(number))
        for one in truth["annotations"]:
            objects[number[one["image_id"]]] += one["category_id"] == ids.get(name) and not one["iscrowd"]
        own = np.flatnonzero((labels == ids.get(name, -1)) & (right >= 0)) if len(results) else np.zeros(0, np.int64)
        own = own[np.argsort(-scores[own], kind="stable")]
        where = np.array([number[image] for image in images[own].tolist()], dtype=np.int64)
        points.append(choose(rule, ClassDetections(scores[own], right[own], where, objects), resamplings))
    counted = right >= 0
    if calibrate and counted.sum() < LEAST_FOR_TEMPERATURE:
        few = plural(int(counted.sum()), "detection")
        raise ValueError(f"--calibrate: {few} of at least {LEAST_FOR_TEMPERATURE}; use more images")
    found = Thresholds(
        str(rule),
        tuple(None if one is None else one.threshold for one in points),
        tuple(_end(one, 0) for one in points),
        tuple(_end(one, 1) for one in points),
        len(number),
        temperature(scores[counted].tolist(), right[counted].tolist()) if calibrate else None,
    )
    return found, points


def store(path: Path, thresholds: Thresholds) -> None:
    """Write thresholds into a checkpoint or a ``.safetensors`` file; everything else in it stays.

    Raises:
        ValueError: the file is no checkpoint of this toolkit.
        OSError: it cannot be written; the older file is intact.
    """
    values = parse_json(json.dumps(asdict(thresholds)).encode(), f"{path}: thresholds")
    if path.suffix == ".ckpt":
        content = read_checkpoint(path)
        content["rcnn"] = checked_info(content, path) | {"thresholds": values}
        write_checkpoint(content, path)
        return
    metadata = _metadata(path)
    metadata["rcnn"] = json.dumps(_info(path, metadata) | {"thresholds": values})
    content_bytes = save(load_file(path), metadata=metadata)
    with replacing(path) as file:
        file.write(content_bytes)


def _names_of(path: Path) -> list[str]:
    """Return the names of a model's classes; their numbers if it has none."""
    is_checkpoint = path.suffix == ".ckpt"
    info = checked_info(read_checkpoint(path), path) if is_checkpoint else _info(path, _metadata(path))
    return (info["categories"] or {}).get("names") or [str(k) for k in range(info["num_classes"])]


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        return dict(file.metadata() or {})


def _info(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if "rcnn" not in metadata:
        raise ValueError(f"{path}: has no settings of this toolkit; write it with rcnn export")
    return dict(parse_json(metadata["rcnn"].encode(), f"{path}: rcnn"))


def _end(point: Point | None, side: int) -> float | None:
    """Return an end of a threshold's interval; None if it is not known."""
    value = None if point is None else point.threshold_interval[side]
    return None if value is None or np.isnan(value) else value


def _line(name: str, point: Point) -> str:
    low, high = point.threshold_interval
    parts = [f"{shown(name)}: threshold {point.threshold:.3f} ({low:.3f} to {high:.3f})"]
    for kind in ("precision", "recall"):
        ends = " to ".join(map(percent, getattr(point, f"{kind}_interval")))
        parts.append(f"{kind} {percent(getattr(point, kind))} ({ends})")
    return ", ".join(parts) + ("" if point.reached else "; the data do not reach the wanted value")
